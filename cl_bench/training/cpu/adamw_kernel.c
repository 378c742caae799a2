/* One AdamW update of float32 buffers, each read and written once, for processors.
 *
 * adamw_kernel.py compiles it. Every entry is rounded as the separate operations of torch round it
 * (optimiser.py lists them), so that it makes no difference whether there is a compiler. */
#include <stdint.h>

/* Entries whose square roots are taken at once: small enough for the first cache. */
#define CHUNK 2048

/* torch's own square root, which is not always the nearest number: n, from, to, mode. Without one
 * torch takes the processor's. */
typedef void (*root)(int, const float *, float *, int64_t);

struct factors {
    float decay, weight, keep, share, correction, eps, size;
};

void adamw(float *master, float *grad, float *mean, float *square, int64_t n,
           const struct factors *f, root vector_root, int64_t mode, int zero, int threads) {
    const float decay = f->decay, weight = f->weight, keep = f->keep, share = f->share;
    const float correction = f->correction, eps = f->eps, size = f->size;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t start = 0; start < n; start += CHUNK) {
        int count = n - start < CHUNK ? (int)(n - start) : CHUNK;
        float *w = master + start, *g = grad + start, *m = mean + start, *v = square + start;
        float roots[CHUNK];
        for (int i = 0; i < count; i++) {
            m[i] = __builtin_fmaf(weight, g[i] - m[i], m[i]);
            v[i] = __builtin_fmaf(share * g[i], g[i], v[i] * keep);
        }
        if (vector_root)
            vector_root(count, v, roots, mode);
        else
            for (int i = 0; i < count; i++) roots[i] = __builtin_sqrtf(v[i]);
        for (int i = 0; i < count; i++) {
            float denominator = roots[i] / correction + eps;
            w[i] = w[i] * decay + size * m[i] / denominator;
        }
        if (zero)
            for (int i = 0; i < count; i++) g[i] = 0.0f;
    }
}
