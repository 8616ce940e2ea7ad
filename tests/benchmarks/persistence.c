/* Persistent motion as mocrop_core.persistence defines it, in one loop over frames and cells: what compiling would give. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

static int at(int i, int n) { return i < 0 ? 0 : i >= n ? n - 1 : i; }

/* 3 x 3 sums of texture * value, the cells at the edge repeated; value 1 where there is none to multiply with */
static void box(const float *texture, const float *value, const unsigned char *has, float *line, float *sums, int rows,
                int cols) {
    for (int r = 0; r < rows; r++) {
        float *restrict out = line;
        const float *above = texture + at(r - 1, rows) * cols, *here = texture + r * cols;
        const float *below = texture + at(r + 1, rows) * cols;
        int a = at(r - 1, rows) * cols, h = r * cols, b = at(r + 1, rows) * cols;
        if (value)
            for (int c = 0; c < cols; c++) out[c] = above[c] * value[a + c] + here[c] * value[h + c] + below[c] * value[b + c];
        else
            for (int c = 0; c < cols; c++) out[c] = above[c] * has[a + c] + here[c] * has[h + c] + below[c] * has[b + c];
        for (int c = 1; c < cols - 1; c++) sums[r * cols + c] = out[c - 1] + out[c] + out[c + 1];
        sums[r * cols] = 2 * out[0] + out[at(1, cols)];
        sums[r * cols + cols - 1] = out[at(cols - 2, cols)] + 2 * out[cols - 1];
    }
}

/* along, down, texture: float32 (frames, rows, cols); has: uint8; motion: float32 (frames, rows, cols) */
void persistent(const float *along, const float *down, const unsigned char *has, const float *texture, float *motion,
                int frames, int rows, int cols, float least) {
    int cells = rows * cols;
    float *line = malloc(cols * sizeof(float)), *sums = malloc(3 * (size_t)frames * cells * sizeof(float));
    for (int f = 0; f < frames; f++) {
        size_t start = (size_t)f * cells;
        box(texture + start, along + start, 0, line, sums + 3 * start, rows, cols);
        box(texture + start, down + start, 0, line, sums + 3 * start + cells, rows, cols);
        box(texture + start, 0, has + start, line, sums + 3 * start + 2 * cells, rows, cols);
    }
    for (int f = 0; f < frames; f++) {
        const float *five[5];
        for (int k = 0; k < 5; k++) five[k] = sums + 3 * (size_t)at(f + k - 2, frames) * cells;
        const float *t = texture + (size_t)f * cells;
        float *restrict out = motion + (size_t)f * cells;
        for (int c = 0; c < cells; c++) {
            float x = 0, y = 0, s = 0;
            for (int k = 0; k < 5; k++) x += five[k][c], y += five[k][c + cells], s += five[k][c + 2 * cells];
            float m = sqrtf(x * x + y * y) / (s > least ? s : least);
            out[c] = m >= 0x1p-10f ? m * t[c] : 0;
        }
    }
    free(line);
    free(sums);
}
