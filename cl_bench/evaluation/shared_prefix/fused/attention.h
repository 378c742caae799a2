/* Attention of any tokens over any pieces of one store of keys and values, for processors.
 *
 * compiled.py compiles it for one head size D, for R query heads to a key head, and for float32 or
 * (HALF) bfloat16. A job is some tokens that look at the same ranges of keys: what sequences share
 * is read once for all of them, and 16 queries at a time share a vector. Where the processor has
 * matrix units for bfloat16 (AMX), they make the products.
 */
#include "blocks.h"

/* Of 16 queries; compiled.py gives a job no more. */
#define GROUPS 4

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
