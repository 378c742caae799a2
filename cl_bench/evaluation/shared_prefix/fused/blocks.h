/* 16 queries at a time over a block of keys: scores, weights relative to the largest, sums.
 *
 * With the matrix units for bfloat16 (AMX) where the processor has them, else with vectors.
 */
#include "numbers.h"

#define LANES 16
#define KEYS 32

#if defined(HALF) && defined(__AMX_BF16__) && defined(__AVX512BF16__) && D % 32 == 0
#define AMX
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

typedef float vector __attribute__((vector_size(4 * LANES)));
typedef float anywhere __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t words __attribute__((vector_size(4 * LANES)));

static inline vector chosen(words where, vector yes, vector no) {
    return (vector)((where & (words)yes) | (~where & (words)no));
}

static inline vector minus_infinity(void) { return (vector){0} - INFINITY; }

/* Queries of a job, 16 of them side by side, and what was found for them so far. */
struct group {
    vector most, total;
    words last;
    float found[LANES][D];
#ifdef AMX
    number query[D / 2][LANES][2];
#else
    float query[D][LANES];
#endif
} __attribute__((aligned(64)));

/* Keys and values of a block, in the form in which they are multiplied. */
struct block {
    int64_t keys;
#ifdef AMX
    number copied[KEYS][D], pairs[KEYS / 2][D][2];
    const number *k;
    int64_t stride;
#else
    float k_copy[KEYS][D], v_copy[KEYS][D];
    const float *k, *v;
    int64_t stride;
#endif
} __attribute__((aligned(64)));

#ifdef AMX
static void configured(void) {
    struct { uint8_t palette, row, rest[14]; uint16_t bytes[16]; uint8_t rows[16]; }
        shape __attribute__((aligned(64))) = {1, 0, {0}, {0}, {0}};
    for (int i = 0; i < 8; i++) {
        shape.bytes[i] = 64;
        shape.rows[i] = 16;
    }
    _tile_loadconfig(&shape);
}

static void read_block(struct block *b, const number *k, const number *v, int64_t stride,
                       int64_t keys) {
    const __m512i low = _mm512_set_epi16(
        47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36, 4,
        35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    b->keys = keys;
    b->k = k;
    b->stride = stride;
    if (keys < KEYS) {
        /* What stands behind the last key may be no number at all: 0 times it would not be 0. */
        memset(b->copied, 0, sizeof b->copied);
        for (int64_t t = 0; t < keys; t++) memcpy(b->copied[t], k + t * stride, sizeof(number[D]));
        b->k = &b->copied[0][0];
        b->stride = D;
    }
    for (int64_t t = 0; t < KEYS; t += 2)
        for (int d = 0; d < D; d += 32) {
            __m512i one = t < keys ? _mm512_loadu_si512(v + t * stride + d) : _mm512_setzero_si512();
            __m512i two = t + 1 < keys ? _mm512_loadu_si512(v + (t + 1) * stride + d)
                                       : _mm512_setzero_si512();
            _mm512_store_si512(b->pairs[t / 2][d], _mm512_permutex2var_epi16(one, low, two));
            _mm512_store_si512(b->pairs[t / 2][d + 16], _mm512_permutex2var_epi16(one, high, two));
        }
}

static void score(const struct group *g, const struct block *b, vector s[KEYS]) {
    for (int t = 0; t < KEYS; t += 16) {
        if (t >= b->keys) break;
        _tile_zero(0);
        for (int d = 0; d < D; d += 32) {
            _tile_loadd(1, b->k + t * b->stride + d, b->stride * sizeof(number));
            _tile_loadd(2, g->query[d / 2], 64);
            _tile_dpbf16ps(0, 1, 2);
        }
        _tile_stored(0, &s[t], 64);
    }
}

/* A square of 16 x 16 words, rows as columns. */
static void turn(__m512i r[16]) {
    __m512i a[16];
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            r[i + 2 * j] = _mm512_unpacklo_epi64(a[i + j], a[i + j + 2]);
            r[i + 2 * j + 1] = _mm512_unpackhi_epi64(a[i + j], a[i + j + 2]);
        }
    for (int i = 0; i < 4; i++)
        for (int h = 0; h < 2; h++) {
            a[8 * h + i] = _mm512_shuffle_i32x4(r[8 * h + i], r[8 * h + i + 4], 0x88);
            a[8 * h + i + 4] = _mm512_shuffle_i32x4(r[8 * h + i], r[8 * h + i + 4], 0xdd);
        }
    for (int i = 0; i < 8; i++) {
        r[i] = _mm512_shuffle_i32x4(a[i], a[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(a[i], a[i + 8], 0xdd);
    }
}

static void collect(struct group *g, const struct block *b, vector s[KEYS], int used) {
    __m512i weights[16] __attribute__((aligned(64)));
    (void)used;
    for (int t = (int)b->keys; t < KEYS; t++) s[t] = (vector){0};
    for (int t = 0; t < KEYS; t += 2) {
        __m256i one = (__m256i)_mm512_cvtneps_pbh((__m512)s[t]);
        __m256i two = (__m256i)_mm512_cvtneps_pbh((__m512)s[t + 1]);
        weights[t / 2] = _mm512_or_si512(_mm512_cvtepu16_epi32(one),
                                         _mm512_slli_epi32(_mm512_cvtepu16_epi32(two), 16));
    }
    turn(weights);
    _tile_loadd(1, weights, 64);
    for (int d = 0; d < D; d += 16) {
        _tile_loadd(0, &g->found[0][d], sizeof(float[D]));
        _tile_loadd(2, b->pairs[0][d], sizeof(number[D][2]));
        _tile_dpbf16ps(0, 1, 2);
        _tile_stored(0, &g->found[0][d], sizeof(float[D]));
    }
}
#else
static void read_block(struct block *b, const number *k, const number *v, int64_t stride,
                       int64_t keys) {
    b->keys = keys;
#ifdef HALF
    for (int64_t t = 0; t < keys; t++)
        for (int d = 0; d < D; d++) {
            b->k_copy[t][d] = widened(k[t * stride + d]);
            b->v_copy[t][d] = widened(v[t * stride + d]);
        }
    b->k = &b->k_copy[0][0];
    b->v = &b->v_copy[0][0];
    b->stride = D;
#else
    b->k = k;
    b->v = v;
    b->stride = stride;
#endif
}

#define AT_ONCE 8

static void score(const struct group *g, const struct block *b, vector s[KEYS]) {
    int64_t t = 0;
    for (; t + AT_ONCE <= b->keys; t += AT_ONCE) {
        vector sum[AT_ONCE] = {0};
        const float *k = b->k + t * b->stride;
        for (int d = 0; d < D; d++) {
            vector query = *(const vector *)g->query[d];
            for (int i = 0; i < AT_ONCE; i++) sum[i] += query * k[i * b->stride + d];
        }
        for (int i = 0; i < AT_ONCE; i++) s[t + i] = sum[i];
    }
    for (; t < b->keys; t++) {
        vector sum = {0};
        for (int d = 0; d < D; d++) sum += *(const vector *)g->query[d] * b->k[t * b->stride + d];
        s[t] = sum;
    }
}

#define WIDE (D % 64 == 0 ? 64 : D % 32 == 0 ? 32 : 16)
#define ROWS 4

static void collect(struct group *g, const struct block *b, vector s[KEYS], int used) {
    for (int lane = 0; lane < used; lane += ROWS)
        for (int d = 0; d < D; d += WIDE) {
            vector sum[ROWS][WIDE / LANES];
            for (int i = 0; i < ROWS; i++)
                for (int j = 0; j < WIDE / LANES; j++)
                    sum[i][j] = *(vector *)&g->found[lane + i][d + j * LANES];
            for (int64_t t = 0; t < b->keys; t++) {
                const float *v = b->v + t * b->stride + d;
                for (int j = 0; j < WIDE / LANES; j++) {
                    vector value = *(const anywhere *)(v + j * LANES);
                    for (int i = 0; i < ROWS; i++) sum[i][j] += value * s[t][lane + i];
                }
            }
            for (int i = 0; i < ROWS; i++)
                for (int j = 0; j < WIDE / LANES; j++)
                    *(vector *)&g->found[lane + i][d + j * LANES] = sum[i][j];
        }
}
#endif

/* `exponential` (numbers.h) of 16 numbers: compilers do not vectorise it within these loops. */
static inline vector exponentials(vector x) {
    const float round = 12582912.0f; /* 1.5 * 2^23: numbers added to it lose their fractions */
    vector y = chosen(x < -87.0f, (vector){0} - 87.0f, x);
    vector whole = (y * 1.44269504f + round) - round;
    vector rest = y - whole * 0.693359375f;
    rest = rest + whole * 2.12194440e-4f;
    vector sum = rest * 1.9875691500e-4f + 1.3981999507e-3f;
    sum = sum * rest + 8.3334519073e-3f;
    sum = sum * rest + 4.1665795894e-2f;
    sum = sum * rest + 1.6666665459e-1f;
    sum = sum * rest + 5.0000001201e-1f;
    sum = sum * rest * rest + rest + 1.0f;
    vector power = (vector)((__builtin_convertvector(whole, words) + 127) << 23);
    return chosen(x < -87.0f, (vector){0}, sum * power);
}

/* Scores of a block become weights relative to the largest so far; `from` is its first key. */
static void weigh(struct group *g, vector s[KEYS], int64_t keys, int64_t from, int causal,
                  float scale, int used) {
    vector most = g->most, change;
    for (int64_t t = 0; t < keys; t++) {
        s[t] *= scale;
        if (causal) s[t] = chosen(g->last < (int32_t)(from + t), minus_infinity(), s[t]);
        most = chosen(s[t] > most, s[t], most);
    }
    words same = most == g->most;
    change = exponentials(g->most - most);
    g->total *= change;
    for (int64_t t = 0; t < keys; t++) {
        s[t] = exponentials(s[t] - most);
        g->total += s[t];
    }
    g->most = most;
    for (int l = 0; l < used; l++)
        if (!same[l])
            for (int d = 0; d < D; d++) g->found[l][d] *= change[l];
}
