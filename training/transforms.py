"""A torchvision v2 transform that crops videos to their boxes."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from mocrop_core.ranges import check_size


class MotionCrop(v2.Transform):
    """Crop a video to its box and resize it.

    size: (height, width) of the output, px, or one number for both; None keeps the box's own. An input holds one or
    several ``tv_tensors.Video`` (…, T, C, H, W) or images, and ``tv_tensors.BoundingBoxes`` on a canvas of the same
    size: the first of these holds one box, such as that of `mocrop.find_box`, to which everything is cropped. Boxes,
    masks and keypoints are moved accordingly, and boxes are clipped at the crop's border; other inputs, such as a
    label, are left alone. Fractions of a pixel are rounded. Raises ValueError if there is no box, or more than one, or
    it is empty or leaves the frame.

    >>> import torch
    >>> from torchvision import tv_tensors
    >>> video = tv_tensors.Video(torch.zeros(8, 3, 240, 320, dtype=torch.uint8))
    >>> box = tv_tensors.BoundingBoxes([[40, 0, 240, 200]], format="XYXY", canvas_size=(240, 320))
    >>> cropped, moved = mocrop.transforms.MotionCrop(size=112)(video, box)
    >>> cropped.shape, moved.tolist()
    (torch.Size([8, 3, 112, 112]), [[0, 0, 112, 112]])
    """

    def __init__(self, size: int | tuple[int, int] | None = 224) -> None:
        super().__init__()
        self.size = (size, size) if isinstance(size, int) else size
        if self.size is not None:
            check_size("size", self.size)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The crop given by the first box: top, left, height and width, px."""
        boxes = next((one for one in flat_inputs if isinstance(one, tv_tensors.BoundingBoxes)), None)
        if boxes is None:
            raise ValueError("MotionCrop needs a box: pass tv_tensors.BoundingBoxes with the video")
        if boxes.numel() != 4:
            raise ValueError(f"MotionCrop needs one box, got {boxes.numel() // 4}; pass the box of find_box first")
        corners = F.convert_bounding_box_format(boxes, new_format=tv_tensors.BoundingBoxFormat.XYXY)
        x0, y0, x1, y1 = (round(float(value)) for value in corners.flatten())
        height, width = boxes.canvas_size
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise ValueError(f"box {(x0, y0, x1, y1)} is empty or leaves the frame of {width}x{height} px")
        for one in flat_inputs:
            if isinstance(one, tv_tensors.Video | tv_tensors.Image) and tuple(one.shape[-2:]) != (height, width):
                raise ValueError(f"the box is on a canvas of {width}x{height} px, the video has {tuple(one.shape)}")
        size = list(self.size or (y1 - y0, x1 - x0))
        return {"top": y0, "left": x0, "height": y1 - y0, "width": x1 - x0, "size": size}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Tensor:
        """One input, cropped and resized."""
        moved = self._call_kernel(F.resized_crop, inpt, **params, antialias=True)
        return F.clamp_bounding_boxes(moved) if isinstance(moved, tv_tensors.BoundingBoxes) else moved
