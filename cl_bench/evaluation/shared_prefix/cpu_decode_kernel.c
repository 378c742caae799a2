/* Attention of single query tokens over keys and values of their own, for processors.
 *
 * cpu_decode_kernel.py compiles it for one head size D, for R query heads to a key head, and for
 * float32 or (HALF) bfloat16, so that the loops over heads and dimensions have known lengths.
 * Sums are float32 whatever the dtype; keys and values are read once for all heads of a group.
 */
#include "fused/numbers.h"

/* Memory is read in STREAMS places at once, and AHEAD columns before it is used: one place alone
 * would wait for memory at every new page. */
#define STREAMS 4
#define AHEAD 8
#define LANES 8

static inline void ask_for(const number *column) {
    for (int d = 0; d < D; d += 64 / (int)sizeof(number))
        __builtin_prefetch(column + AHEAD * D + d);
}

/* The sum of a[d] * b[d], in LANES parts that are added in pairs: compilers take longer. */
static inline float product(const float *a, const float *b) {
    float part[LANES];
#pragma omp simd
    for (int l = 0; l < LANES; l++) {
        part[l] = a[l] * b[l];
        for (int d = LANES; d < D; d += LANES) part[l] += a[d + l] * b[d + l];
    }
    for (int width = LANES / 2; width; width /= 2)
        for (int l = 0; l < width; l++) part[l] += part[l + width];
    return part[0];
}

/* One token and key head: q [R, D], k and v [n, D], out [R, D]; weights [R, n] is for its use. */
static void one(const number *q, const number *k, const number *v, int64_t n, float scale,
                float *weights, number *out) {
    float query[R][D], found[R][D], largest[R], total[R];
    for (int h = 0; h < R; h++) {
        for (int d = 0; d < D; d++) {
            query[h][d] = widened(q[h * D + d]) * scale;
            found[h][d] = 0;
        }
        largest[h] = -INFINITY;
        total[h] = 0;
    }
    int64_t part = n / STREAMS, rest = part * STREAMS;
    for (int64_t j = 0; j < n; j++) {
        int64_t i = j < rest ? j % STREAMS * part + j / STREAMS : j;
        float key[D];
        ask_for(k + i * D);
        for (int d = 0; d < D; d++) key[d] = widened(k[i * D + d]);
        for (int h = 0; h < R; h++) {
            float sum = product(query[h], key);
            weights[h * n + i] = sum;
            largest[h] = sum > largest[h] ? sum : largest[h];
        }
    }
    for (int h = 0; h < R; h++) {
        float sum = 0, most = largest[h];
        float *row = weights + h * n;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < n; i++) {
            row[i] = exponential(row[i] - most);
            sum += row[i];
        }
        total[h] = sum;
    }
    for (int64_t i = 0; i < part; i++) {
        const number *at[STREAMS];
        for (int s = 0; s < STREAMS; s++) {
            at[s] = v + (s * part + i) * D;
            ask_for(at[s]);
        }
        for (int h = 0; h < R; h++) {
            const float *w = weights + h * n + i;
#pragma omp simd
            for (int d = 0; d < D; d++)
                found[h][d] += w[0] * widened(at[0][d]) + w[part] * widened(at[1][d]) +
                               w[2 * part] * widened(at[2][d]) + w[3 * part] * widened(at[3][d]);
        }
    }
    for (int64_t i = rest; i < n; i++)
        for (int h = 0; h < R; h++)
#pragma omp simd
            for (int d = 0; d < D; d++) found[h][d] += weights[h * n + i] * widened(v[i * D + d]);
    for (int h = 0; h < R; h++)
        for (int d = 0; d < D; d++) out[h * D + d] = rounded(found[h][d] / total[h]);
}

/* Token t looks at the first ends[t] columns of slot slots[t]. All arrays are contiguous:
 * q and out [tokens, groups, R, D], keys and values [any, groups, columns, D]. Returns 0, or 1
 * where memory for the weights is missing. */
int attend(const number *q, const number *keys, const number *values, const int64_t *slots,
           const int64_t *ends, int64_t tokens, int64_t groups, int64_t columns, float scale,
           int threads, number *out) {
    int failed = 0;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) reduction(| : failed)
    for (int64_t job = 0; job < tokens * groups; job++) {
        int64_t token = job / groups, group = job % groups, n = ends[token];
        int64_t begin = (slots[token] * groups + group) * columns * D;
        float *weights = malloc(sizeof(float) * R * n);
        if (weights == NULL) {
            failed = 1;
            continue;
        }
        one(q + job * R * D, keys + begin, values + begin, n, scale, weights, out + job * R * D);
        free(weights);
    }
    return failed;
}
