/* What a decoder layer does between its products, for processors: norms, rotary, SwiGLU, argmax.
 *
 * Results are rounded to the model's dtype where transformers rounds them.
 */
#include "numbers.h"

/* So many numbers for each thread, or one thread does it all: waking another takes microseconds. */
#define WORTH 32768

/* RMSNorm of rows [n, c] into out; where `added` is given, x becomes x + added before. */
void normalise(number *x, const number *added, const number *weight, float eps, int64_t n,
               int64_t c, int threads, number *out) {
#pragma omp parallel for num_threads(threads) if (n * c > WORTH)
    for (int64_t i = 0; i < n; i++) {
        number *row = x + i * c;
        float sum = 0;
        if (added)
            for (int64_t j = 0; j < c; j++)
                row[j] = rounded(widened(row[j]) + widened(added[i * c + j]));
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < c; j++) sum += widened(row[j]) * widened(row[j]);
        float factor = 1.0f / sqrtf(sum / c + eps);
        for (int64_t j = 0; j < c; j++) {
            number whole = rounded(widened(row[j]) * factor);
            out[i * c + j] = rounded(widened(weight[j]) * widened(whole));
        }
    }
}

/* x [n, c] + added, in place. */
void add(number *x, const number *added, int64_t n, int64_t c, int threads) {
#pragma omp parallel for num_threads(threads) if (n * c > WORTH)
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < c; j++)
            x[i * c + j] = rounded(widened(x[i * c + j]) + widened(added[i * c + j]));
}

/* silu(gate) * up of rows [n, 2 m], gates first, into out [n, m]. */
void gated(const number *both, int64_t n, int64_t m, int threads, number *out) {
#pragma omp parallel for num_threads(threads) if (n * m > WORTH)
    for (int64_t i = 0; i < n; i++) {
        const number *gate = both + i * 2 * m, *up = gate + m;
        for (int64_t j = 0; j < m; j++) {
            float x = widened(gate[j]), e = exponential(x > 0 ? -x : x);
            float part = (x > 0 ? 1.0f : e) / (1.0f + e);
            out[i * m + j] = rounded(widened(rounded(x * part)) * widened(up[j]));
        }
    }
}

static inline void rotate_head(const number *x, const number *cosine, const number *sine,
                               number *out) {
    for (int d = 0; d < D / 2; d++) {
        float a = widened(x[d]), b = widened(x[d + D / 2]);
        float turned = widened(rounded(a * widened(cosine[d])));
        float other = widened(rounded(b * widened(cosine[d + D / 2])));
        out[d] = rounded(turned - widened(rounded(b * widened(sine[d]))));
        out[d + D / 2] = rounded(other + widened(rounded(a * widened(sine[d + D / 2]))));
    }
}

/* Rows [n, (heads R + 2 heads) D] of queries, keys and values: queries are rotated into q, keys
 * into the store at offsets[i] of each head, and values put there. cosines and sines [n, D]. */
void place(const number *rows, const number *cosines, const number *sines, const int64_t *offsets,
           int64_t n, int64_t heads, int64_t head_stride, int threads, number *q, number *keys,
           number *values) {
    int64_t wide = (heads * R + 2 * heads) * D;
#pragma omp parallel for num_threads(threads) if (n * wide > WORTH)
    for (int64_t i = 0; i < n; i++) {
        const number *row = rows + i * wide, *k = row + heads * R * D, *v = k + heads * D;
        for (int64_t h = 0; h < heads * R; h++)
            rotate_head(row + h * D, cosines + i * D, sines + i * D, q + (i * heads * R + h) * D);
        for (int64_t h = 0; h < heads; h++) {
            int64_t at = h * head_stride + offsets[i];
            rotate_head(k + h * D, cosines + i * D, sines + i * D, keys + at);
            memcpy(values + at, v + h * D, sizeof(number[D]));
        }
    }
}

/* The first place of the largest number of each row [n, c]; of the first NaN where there is one. */
void largest(const number *rows, int64_t n, int64_t c, int threads, int64_t *out) {
#pragma omp parallel for num_threads(threads)
    for (int64_t i = 0; i < n; i++) {
        const number *row = rows + i * c;
        float most = -INFINITY;
        int strange = 0;
#pragma omp simd reduction(max : most) reduction(| : strange)
        for (int64_t j = 0; j < c; j++) {
            float x = widened(row[j]);
            strange |= x != x;
            most = x > most ? x : most;
        }
        int64_t at = 0;
        while (at + 1 < c && !(strange ? widened(row[at]) != widened(row[at]) : widened(row[at]) == most)) at++;
        out[i] = at;
    }
}
