/* The multichannel Wiener filter of wiener.py, one iteration from masks, for two channels on a processor: the same
 * model, in double precision throughout, but a bin at a time, so that all that belongs to it stays in the cache.
 * wiener.py is what defines it, and what runs where this has not been compiled. */

#include <stddef.h>
#include <stdlib.h>

/* Twice as fast as the baseline of x86-64. clang has this attribute from version 14 on; there it was not tried. */
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_CPU __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_CPU
#endif

#define NOBODY 1e-30 /* as in wiener.py */
#define FLOOR 1e-10

typedef ptrdiff_t size;

/* Distances are in floats; frames are adjacent. */
struct job {
    const float *mix;   /* [2][bins][frames][2]: real and imaginary part */
    size mix_channel, mix_bin;
    const float *masks; /* [stems][2][bins][frames] */
    size masks_stem, masks_channel, masks_bin;
    float *out;         /* [stems][2][bins][frames][2] */
    size out_stem, out_channel, out_bin;
    size stems, bins, frames;
    double scale, eps, least; /* the mix is divided by scale, and its stems multiplied; least: sqrt(eps) */
    int exact;
};

const size_t sepctl_stereo_job = sizeof(struct job); /* what stereo.py compares with its own */

/* Scratch: 9 + stems rows of frames, and 4 numbers for each stem. */
FOR_EACH_CPU static void filter_bin(const struct job *job, size bin, double *scratch)
{
    const size frames = job->frames, stems = job->stems;
    const float *restrict left = job->mix + bin * job->mix_bin, *restrict right = left + job->mix_channel;
    double *restrict lr = scratch, *restrict li = lr + frames, *restrict rr = li + frames, *restrict ri = rr + frames;
    double *restrict a = ri + frames, *restrict d = a + frames, *restrict re = d + frames, *restrict im = re + frames;
    double *restrict total = im + frames, *restrict powers = total + frames; /* powers: [stems][frames] */
    double *restrict spaces = powers + stems * frames;
    const double over_scale = 1 / job->scale, nobody = stems * NOBODY;

#pragma omp simd
    for (size t = 0; t < frames; t++) {
        lr[t] = left[2 * t] * over_scale, li[t] = left[2 * t + 1] * over_scale;
        rr[t] = right[2 * t] * over_scale, ri[t] = right[2 * t + 1] * over_scale;
        a[t] = d[t] = re[t] = im[t] = total[t] = 0;
    }

    /* Of each stem its power density v, and its covariance R = [[ll, cross], [conj cross, rr]]; of all the sum of
     * v R = [[a, b], [conj b, d]], b = re + i im. */
    for (size j = 0; j < stems; j++) {
        const float *restrict m = job->masks + j * job->masks_stem + bin * job->masks_bin;
        const float *restrict n = m + job->masks_channel;
        double *restrict v = powers + j * frames;
        double ll = 0, rights = 0, real = 0, imaginary = 0;
#pragma omp simd reduction(+ : ll, rights, real, imaginary)
        for (size t = 0; t < frames; t++) {
            double x = m[t], y = n[t], both = x * y;
            double of_left = x * x * (lr[t] * lr[t] + li[t] * li[t]);
            double of_right = y * y * (rr[t] * rr[t] + ri[t] * ri[t]);
            ll += of_left;
            rights += of_right;
            real += both * (lr[t] * rr[t] + li[t] * ri[t]);
            imaginary += both * (li[t] * rr[t] - lr[t] * ri[t]);
            v[t] = (of_left + of_right) / 2;
        }
        const double per = 1 / (job->eps + (ll + rights) / 2);
        ll *= per, rights *= per, real *= per, imaginary *= per;
        spaces[4 * j] = ll, spaces[4 * j + 1] = rights, spaces[4 * j + 2] = real, spaces[4 * j + 3] = imaginary;
#pragma omp simd
        for (size t = 0; t < frames; t++) {
            a[t] += v[t] * ll, d[t] += v[t] * rights, re[t] += v[t] * real, im[t] += v[t] * imaginary;
            total[t] += v[t];
        }
    }

    double most = 0;
#pragma omp simd reduction(max : most)
    for (size t = 0; t < frames; t++)
        most = total[t] > most ? total[t] : most;
    const double floor = FLOOR * most > job->least ? FLOOR * most : job->least;

    /* w = C^-1 x takes the place of x; of d, what nobody claims; of a, the part that exactness adds to every R. */
#pragma omp simd
    for (size t = 0; t < frames; t++) {
        const double p = a[t] + floor, q = d[t] + floor, u = re[t], s = im[t];
        const double over = 1 / (p * q - u * u - s * s);
        const double w = lr[t], x = li[t], y = rr[t], z = ri[t];
        lr[t] = (q * w - u * y + s * z) * over, li[t] = (q * x - u * z - s * y) * over;
        rr[t] = (p * y - u * w - s * x) * over, ri[t] = (p * z - u * x + s * w) * over;
        d[t] = job->exact && total[t] < NOBODY ? NOBODY : 0;
        a[t] = job->exact ? floor / (total[t] > nobody ? total[t] : nobody) : 0;
    }

    for (size j = 0; j < stems; j++) {
        const double *restrict v = powers + j * frames;
        const double ll = spaces[4 * j], rights = spaces[4 * j + 1], real = spaces[4 * j + 2], imaginary = spaces[4 * j + 3];
        float *restrict y = job->out + j * job->out_stem + bin * job->out_bin, *restrict z = y + job->out_channel;
#pragma omp simd
        for (size t = 0; t < frames; t++) {
            const double gain = job->scale * (d[t] > 0 ? d[t] : v[t]), p = ll + a[t], q = rights + a[t];
            y[2 * t] = gain * (p * lr[t] + real * rr[t] - imaginary * ri[t]);
            y[2 * t + 1] = gain * (p * li[t] + real * ri[t] + imaginary * rr[t]);
            z[2 * t] = gain * (q * rr[t] + real * lr[t] + imaginary * li[t]);
            z[2 * t + 1] = gain * (q * ri[t] + real * li[t] - imaginary * lr[t]);
        }
    }
}

/* 0, or -1 where memory is out. */
int sepctl_stereo_filter(const struct job *job)
{
    double *scratch = malloc(sizeof(double) * ((9 + job->stems) * job->frames + 4 * job->stems));
    if (!scratch)
        return -1;
    for (size bin = 0; bin < job->bins; bin++)
        filter_bin(job, bin, scratch);
    free(scratch);
    return 0;
}
