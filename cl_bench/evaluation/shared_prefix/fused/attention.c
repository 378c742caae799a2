/* Attention of any tokens over any pieces of one store of keys and values, for processors.
 *
 * compiled.py compiles it for one head size D, for R query heads to a key head, and for float32 or
 * (HALF) bfloat16. A job is some tokens that look at the same ranges of keys: what sequences share
 * is read once for all of them, and 16 queries at a time share a vector. Where the processor has
 * matrix units for bfloat16 (AMX), they make the products.
 */
#include "numbers.h"

#define LANES 16
#define KEYS 32
#define GROUPS 4

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

struct call {
    const number *q, *keys, *values;
    const int64_t *tokens, *ranges;
    int64_t heads, head_stride, stride;
    float scale, *parts;
    number *out;
};

enum { TOKENS_AT, TOKENS, RANGES_AT, RANGES, LANE, CAUSAL, FIELDS };

/* A query's result: whole, or a part of it. */
static void finish(const struct call *c, const int64_t *job, int64_t head, int lane,
                   const float *found, float most, float total) {
    int64_t token = c->tokens[job[TOKENS_AT] + lane / R];
    if (job[LANE] < 0) {
        number *out = c->out + ((token * c->heads + head) * R + lane % R) * D;
        for (int d = 0; d < D; d++) out[d] = rounded(found[d] / total);
    } else {
        float *part = c->parts + ((job[LANE] + lane) * c->heads + head) * (D + 2);
        memcpy(part, found, sizeof(float[D]));
        part[D] = most;
        part[D + 1] = total;
    }
}

static inline const number *query_of(const struct call *c, const int64_t *job, int64_t head,
                                     int lane) {
    int64_t token = c->tokens[job[TOKENS_AT] + lane / R];
    return c->q + ((token * c->heads + head) * R + lane % R) * D;
}

/* One job and key head. The tokens are the last keys of a causal job's last range. */
static void attend_job(const struct call *c, const int64_t *job, int64_t head) {
    struct group groups[GROUPS];
    struct block block;
    vector s[KEYS];
    const int64_t *range = c->ranges + 2 * job[RANGES_AT];
    int lanes = (int)job[TOKENS] * R, count = (lanes + LANES - 1) / LANES;
    for (int i = 0; i < count; i++) {
        struct group *g = &groups[i];
        memset(g, 0, sizeof *g);
        g->most = minus_infinity();
        for (int l = 0; l < LANES && i * LANES + l < lanes; l++) {
            int lane = i * LANES + l;
            const number *q = query_of(c, job, head, lane);
            g->last[l] = (int32_t)(range[2 * job[RANGES] - 1] - job[TOKENS] + lane / R);
            for (int d = 0; d < D; d++)
#ifdef AMX
                g->query[d / 2][l][d % 2] = q[d];
#else
                g->query[d][l] = widened(q[d]);
#endif
        }
    }
    for (int64_t r = 0; r < job[RANGES]; r++) {
        const number *k = c->keys + head * c->head_stride + range[2 * r];
        const number *v = c->values + head * c->head_stride + range[2 * r];
        int64_t length = range[2 * r + 1];
        for (int64_t from = 0; from < length; from += KEYS) {
            int64_t keys = length - from < KEYS ? length - from : KEYS;
            int causal = job[CAUSAL] && r + 1 == job[RANGES] && from + keys > length - job[TOKENS];
            read_block(&block, k + from * c->stride, v + from * c->stride, c->stride, keys);
            for (int i = 0; i < count; i++) {
                int used = lanes - i * LANES < LANES ? lanes - i * LANES : LANES;
                score(&groups[i], &block, s);
                weigh(&groups[i], s, keys, from, causal, c->scale, used);
                collect(&groups[i], &block, s, used);
            }
        }
    }
    for (int lane = 0; lane < lanes; lane++) {
        const struct group *g = &groups[lane / LANES];
        int l = lane % LANES;
        finish(c, job, head, lane, g->found[l], g->most[l], g->total[l]);
    }
}

static inline vector row_of(const number *x) {
    vector found;
    for (int l = 0; l < LANES; l++) found[l] = widened(x[l]);
    return found;
}

/* The sums of four vectors' numbers, at places 0, 4, 8 and 12. */
static inline vector sums(vector a, vector b, vector c, vector d) {
    const words low = {0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23};
    const words even = {0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27};
    const words two = {2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13};
    const words one = {1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14};
    vector ab = __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, low + 8);
    vector cd = __builtin_shuffle(c, d, low) + __builtin_shuffle(c, d, low + 8);
    vector all = __builtin_shuffle(ab, cd, even) + __builtin_shuffle(ab, cd, even + 4);
    all += __builtin_shuffle(all, two);
    return all + __builtin_shuffle(all, one);
}

#define FEW 4
#define AHEAD 8
#define PIECES (D / LANES)

/* `attend_job` for a single token: with its few queries, 16 numbers of a key share a vector. */
static void attend_few(const struct call *c, const int64_t *job, int64_t head) {
    vector query[R < FEW ? R : FEW][PIECES], found[R < FEW ? R : FEW][PIECES];
    float most[R], total[R], s[R < FEW ? R : FEW][KEYS] __attribute__((aligned(64)));
    const int64_t *range = c->ranges + 2 * job[RANGES_AT];
    for (int h = 0; h < R; h++) {
        const number *q = query_of(c, job, head, h);
        for (int p = 0; p < PIECES; p++) {
            query[h][p] = row_of(q + p * LANES) * c->scale;
            found[h][p] = (vector){0};
        }
        most[h] = -INFINITY;
        total[h] = 0;
    }
    for (int64_t r = 0; r < job[RANGES]; r++) {
        const number *k = c->keys + head * c->head_stride + range[2 * r];
        const number *v = c->values + head * c->head_stride + range[2 * r];
        int64_t length = range[2 * r + 1], stride = c->stride;
        for (int64_t from = 0; from < length; from += KEYS, k += KEYS * stride, v += KEYS * stride) {
            int keys = (int)(length - from < KEYS ? length - from : KEYS);
            for (int t = 0; t < keys; t += FEW) {
                vector sum[R][FEW];
                for (int i = 0; i < FEW; i++) {
                    /* A key behind the last is read as the last, and not used. */
                    const number *row = k + (t + i < keys ? t + i : keys - 1) * stride;
                    for (int d = 0; d < D; d += 64 / (int)sizeof(number)) {
                        __builtin_prefetch(row + AHEAD * stride + d);
                        __builtin_prefetch(v + (t + i) * stride + d);
                    }
                    for (int h = 0; h < R; h++) sum[h][i] = (vector){0};
                    for (int p = 0; p < PIECES; p++) {
                        vector key = row_of(row + p * LANES);
                        for (int h = 0; h < R; h++) sum[h][i] += key * query[h][p];
                    }
                }
                for (int h = 0; h < R; h++) {
                    vector four = sums(sum[h][0], sum[h][1], sum[h][2], sum[h][3]);
                    for (int i = 0; i < FEW; i++) s[h][t + i] = four[FEW * i];
                }
            }
            for (int h = 0; h < R; h++) {
                float next = most[h], sum = 0;
                for (int t = keys; t < KEYS; t++) s[h][t] = -INFINITY;
                for (int t = 0; t < KEYS; t++) next = s[h][t] > next ? s[h][t] : next;
                float change = exponential(most[h] - next);
                for (int t = 0; t < KEYS; t += LANES) {
                    vector weights = exponentials(*(vector *)&s[h][t] - next);
                    *(vector *)&s[h][t] = weights;
                    for (int l = 0; l < LANES; l++) sum += weights[l];
                }
                total[h] = total[h] * change + sum;
                most[h] = next;
                for (int p = 0; p < PIECES; p++) found[h][p] *= change;
            }
            for (int t = 0; t < keys; t++)
                for (int p = 0; p < PIECES; p++) {
                    vector value = row_of(v + t * stride + p * LANES);
                    for (int h = 0; h < R; h++) found[h][p] += value * s[h][t];
                }
        }
    }
    for (int h = 0; h < R; h++) finish(c, job, head, h, (const float *)found[h], most[h], total[h]);
}

/* One token and head whose keys were read by several jobs: whole = [token, parts_at, parts]. */
static void join(const struct call *c, const int64_t *whole, const int64_t *parts, int64_t head) {
    for (int h = 0; h < R; h++) {
        float found[D] = {0}, most = -INFINITY, total = 0;
        for (int64_t i = 0; i < whole[2]; i++) {
            const float *part =
                c->parts + ((parts[whole[1] + i] + h) * c->heads + head) * (D + 2);
            float next = part[D] > most ? part[D] : most;
            float old = exponential(most - next), new = exponential(part[D] - next);
            for (int d = 0; d < D; d++) found[d] = found[d] * old + part[d] * new;
            total = total * old + part[D + 1] * new;
            most = next;
        }
        number *out = c->out + ((whole[0] * c->heads + head) * R + h) * D;
        for (int d = 0; d < D; d++) out[d] = rounded(found[d] / total);
    }
}

/* Before the first call: 0 where the system does not let this process use what was compiled. */
int allowed(void) {
#ifdef AMX
    return syscall(SYS_arch_prctl, 0x1023, 18) == 0;
#else
    return 1;
#endif
}

/* q and out [any, heads, R, D]; token t of key head h stands at h * head_stride + its offset, the
 * next token of a range `stride` numbers behind it. jobs [n, FIELDS], ranges [any, 2]: offset and
 * length; wholes [m, 3]; parts: lanes of jobs. Returns 0, or 1 where memory is missing. */
int attend(const number *q, const number *keys, const number *values, const int64_t *jobs,
           int64_t n, const int64_t *tokens, const int64_t *ranges, const int64_t *wholes,
           int64_t m, const int64_t *parts, int64_t lanes, int64_t heads, int64_t head_stride,
           int64_t stride, float scale, int threads, number *out) {
    struct call call = {q, keys, values, tokens, ranges, heads, head_stride, stride, scale, NULL, out};
    if (lanes && !(call.parts = malloc(sizeof(float) * lanes * heads * (D + 2)))) return 1;
#pragma omp parallel num_threads(threads)
    {
#ifdef AMX
        configured();
#endif
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < n * heads; i++) {
            const int64_t *job = jobs + i / heads * FIELDS;
            if (R <= FEW && job[TOKENS] == 1)
                attend_few(&call, job, i % heads);
            else
                attend_job(&call, job, i % heads);
        }
#ifdef AMX
        _tile_release();
#endif
#pragma omp for schedule(static)
        for (int64_t i = 0; i < m * heads; i++) join(&call, wholes + i / heads * 3, parts, i % heads);
    }
    free(call.parts);
    return 0;
}
