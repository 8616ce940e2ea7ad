"""Training and testing of 2-D backbones on the cached crops of a store. It decodes no video."""
