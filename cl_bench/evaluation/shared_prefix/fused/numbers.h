/* The model's dtype for all kernels of generation: float32 or (HALF) bfloat16, sums in float32. */
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef HALF
typedef uint16_t number;

static inline float widened(number x) {
    union { uint32_t bits; float value; } both = {(uint32_t)x << 16};
    return both.value;
}

static inline number rounded(float x) {
    union { float value; uint32_t bits; } both = {x};
    uint32_t near = (both.bits + 0x7fff + ((both.bits >> 16) & 1)) >> 16;
    return x != x ? 0x7fc0 : near;
}
#else
typedef float number;
static inline float widened(number x) { return x; }
static inline number rounded(float x) { return x; }
#endif

/* e^x for x <= 0 within 2e-7 of it, 0 below -87, in a form that compilers vectorise; NaN is NaN. */
static inline float exponential(float x) {
    float y = x < -87.0f ? -87.0f : x;
    float whole = rintf(y * 1.44269504f);
    float rest = fmaf(whole, -0.693359375f, y);
    rest = fmaf(whole, 2.12194440e-4f, rest);
    float sum = 1.9875691500e-4f;
    sum = fmaf(sum, rest, 1.3981999507e-3f);
    sum = fmaf(sum, rest, 8.3334519073e-3f);
    sum = fmaf(sum, rest, 4.1665795894e-2f);
    sum = fmaf(sum, rest, 1.6666665459e-1f);
    sum = fmaf(sum, rest, 5.0000001201e-1f);
    sum = fmaf(sum * rest, rest, rest) + 1.0f;
    union { uint32_t bits; float value; } power = {(uint32_t)((int32_t)whole + 127) << 23};
    return x < -87.0f ? 0.0f : sum * power.value;
}
