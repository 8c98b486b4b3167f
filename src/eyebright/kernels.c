/* What lies between two convolutions of a net that trains in bf16 on a processor: 2x2 max-pooling,
 * batch norm and GELU, forward and backward, each in as few passes over memory as can be.
 *
 * Features are bf16, channels last: (n, height, width, channels). A row of `len` values holds one
 * or more whole pixels; what belongs to channels (scale, bias, ...) is repeated to that length, so
 * that the inner loops are long whatever the channels are. Sums are kept for each picture and are
 * added up by the caller: results do not depend on the number of threads.
 */
#include <stdint.h>
#include <string.h>

typedef uint16_t bf16;

static inline float wide(bf16 value) {
  uint32_t bits = (uint32_t)value << 16;
  float result;
  memcpy(&result, &bits, 4);
  return result;
}

/* Round to the nearest, ties to even. */
static inline bf16 narrow(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return (bf16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

/* The bits as an integer that is ordered as the number is, and back. What is not a number lies
 * above infinity or, if its sign is set, below minus infinity. */
static inline int16_t ordered(bf16 value) {
  int16_t bits = (int16_t)value;
  return bits ^ ((bits >> 15) & 0x7fff);
}
static const int16_t MINUS_INFINITY = (int16_t)0x807f, NOT_A_NUMBER = 0x7fff;

static inline int16_t larger(int16_t a, int16_t b) { return a > b ? a : b; }
static inline int16_t smaller(int16_t a, int16_t b) { return a < b ? a : b; }

static inline float within_one(float x) { return x < -1.0f ? -1.0f : x > 1.0f ? 1.0f : x; }

/* GELU is z * P(z) with the normal distribution P. P - 1/2 and GELU' - 1/2 are odd: minimax
 * polynomials in z / 4 and z / 4.3, off by at most 5e-5 and 2e-4 (bf16 itself rounds at 2e-3).
 * Beyond their ends they stay at what they have there: 0 and 1, to within 5e-5. */
static const float P[] = {1.59544182f,  -4.2352236f, 9.89682284f, -17.1737351f,
                          21.1463453f,  -17.2000892f, 8.16775007f, -1.69731318f};
static const float SLOPE[] = {3.4278133f,   -20.9438741f, 84.0616671f,  -222.995433f, 401.631481f,
                              -484.105606f, 371.560863f,  -163.28724f,  31.1503274f};

static inline float gelu(float z) {
  float s = within_one(z * 0.25f), u = s * s, sum = P[7];
  for (int k = 6; k >= 0; k--) sum = sum * u + P[k];
  return z * (0.5f + s * sum);
}

static inline float gelu_slope(float z) {
  float s = within_one(z * (1 / 4.3f)), u = s * s, sum = SLOPE[8];
  for (int k = 7; k >= 0; k--) sum = sum * u + SLOPE[k];
  return 0.5f + s * sum;
}

/* x_hat = x * scale + centre is the normalised feature; z = x_hat + bias goes into GELU. */

/* Sum and sum of squares of each channel: sums is (n, 2, channels). */
void sum_squares(const bf16 *x, float *sums, long n, long pixels, long channels) {
#pragma omp parallel for schedule(static)
  for (long i = 0; i < n; i++) {
    float *restrict sum = sums + i * 2 * channels, *restrict square = sum + channels;
    memset(sum, 0, 2 * channels * sizeof(float));
    for (long p = 0; p < pixels; p++) {
      const bf16 *restrict in = x + (i * pixels + p) * channels;
      for (long c = 0; c < channels; c++) {
        float v = wide(in[c]);
        sum[c] += v;
        square[c] += v * v;
      }
    }
  }
}

/* 2x2 max-pooling; `which` is the place of the largest, from 0 to 3. An odd last row or column is
 * left out. Sums are those of the pooled features, as above. */
void pool(const bf16 *x, bf16 *pooled, uint16_t *which, float *sums, long n, long height,
          long width, long channels) {
  long rows = height / 2, columns = width / 2;
#pragma omp parallel for schedule(static)
  for (long i = 0; i < n; i++) {
    float *restrict sum = sums + i * 2 * channels, *restrict square = sum + channels;
    memset(sum, 0, 2 * channels * sizeof(float));
    for (long r = 0; r < rows; r++) {
      for (long q = 0; q < columns; q++) {
        const bf16 *restrict in0 = x + ((i * height + 2 * r) * width + 2 * q) * channels;
        const bf16 *restrict in1 = in0 + channels, *restrict in2 = in0 + width * channels;
        const bf16 *restrict in3 = in2 + channels;
        long at = ((i * rows + r) * columns + q) * channels;
        bf16 *restrict out = pooled + at;
        uint16_t *restrict place = which + at;
        for (long c = 0; c < channels; c++) {
          int16_t a = ordered(in0[c]), b = ordered(in1[c]);
          int16_t d = ordered(in2[c]), e = ordered(in3[c]);
          int16_t best = larger(larger(a, b), larger(d, e));
          int16_t least = smaller(smaller(a, b), smaller(d, e));
          best = least < MINUS_INFINITY ? NOT_A_NUMBER : best;
          out[c] = (bf16)ordered((bf16)best);
          place[c] = best == a ? 0 : best == b ? 1 : best == d ? 2 : 3;
        }
        for (long c = 0; c < channels; c++) {
          float v = wide(out[c]);
          sum[c] += v;
          square[c] += v * v;
        }
      }
    }
  }
}

/* out = GELU(x * scale + offset). */
void norm_gelu(const bf16 *x, const float *restrict scale, const float *restrict offset, bf16 *out,
               long rows, long len) {
#pragma omp parallel for schedule(static)
  for (long r = 0; r < rows; r++) {
    const bf16 *restrict in = x + r * len;
    bf16 *restrict to = out + r * len;
    for (long j = 0; j < len; j++) to[j] = narrow(gelu(wide(in[j]) * scale[j] + offset[j]));
  }
}

/* The gradient of z, summed, and summed times x_hat: sums is (n, 2, len). */
void gradient_sums(const bf16 *gradient, const bf16 *x, const float *restrict scale,
                   const float *restrict centre, const float *restrict bias, float *sums, long n,
                   long rows, long len) {
#pragma omp parallel for schedule(static)
  for (long i = 0; i < n; i++) {
    float *restrict sum = sums + i * 2 * len, *restrict product = sum + len;
    memset(sum, 0, 2 * len * sizeof(float));
    for (long r = 0; r < rows; r++) {
      const bf16 *restrict in = x + (i * rows + r) * len;
      const bf16 *restrict g = gradient + (i * rows + r) * len;
      for (long j = 0; j < len; j++) {
        float x_hat = wide(in[j]) * scale[j] + centre[j];
        float dz = wide(g[j]) * gelu_slope(x_hat + bias[j]);
        sum[j] += dz;
        product[j] += dz * x_hat;
      }
    }
  }
}

/* The gradient of x: scale * (dz - mean(dz) - x_hat * mean(dz * x_hat)). */
static inline void row_back(const bf16 *restrict g, const bf16 *restrict in, bf16 *restrict to,
                            const float *restrict scale, const float *restrict centre,
                            const float *restrict bias, const float *restrict mean,
                            const float *restrict slope, long len) {
  for (long j = 0; j < len; j++) {
    float x_hat = wide(in[j]) * scale[j] + centre[j];
    float dz = wide(g[j]) * gelu_slope(x_hat + bias[j]);
    to[j] = narrow(scale[j] * (dz - mean[j] - x_hat * slope[j]));
  }
}

void norm_gelu_back(const bf16 *gradient, const bf16 *x, const float *scale, const float *centre,
                    const float *bias, const float *mean, const float *slope, bf16 *out, long rows,
                    long len) {
#pragma omp parallel for schedule(static)
  for (long r = 0; r < rows; r++)
    row_back(gradient + r * len, x + r * len, out + r * len, scale, centre, bias, mean, slope, len);
}

/* The same, then back through the pooling: out is (n, height, width, channels). */
void pool_norm_gelu_back(const bf16 *gradient, const bf16 *pooled, const uint16_t *which,
                         const float *scale, const float *centre, const float *bias,
                         const float *mean, const float *slope, bf16 *out, long n, long height,
                         long width, long channels, long len) {
  long rows = height / 2, columns = width / 2, row_len = columns * channels;
#pragma omp parallel for schedule(static)
  for (long i = 0; i < n; i++) {
    bf16 row[row_len];
    for (long r = 0; r < rows; r++) {
      long at = (i * rows + r) * row_len;
      for (long j = 0; j < row_len; j += len)
        row_back(gradient + at + j, pooled + at + j, row + j, scale, centre, bias, mean, slope, len);
      bf16 *upper = out + (i * height + 2 * r) * width * channels, *lower = upper + width * channels;
      for (long q = 0; q < columns; q++) {
        const bf16 *restrict v = row + q * channels;
        const uint16_t *restrict place = which + at + q * channels;
        bf16 *restrict to0 = upper + 2 * q * channels, *restrict to1 = to0 + channels;
        bf16 *restrict to2 = lower + 2 * q * channels, *restrict to3 = to2 + channels;
        for (long c = 0; c < channels; c++) {
          to0[c] = place[c] == 0 ? v[c] : 0;
          to1[c] = place[c] == 1 ? v[c] : 0;
          to2[c] = place[c] == 2 ? v[c] : 0;
          to3[c] = place[c] == 3 ? v[c] : 0;
        }
      }
      if (width & 1) {
        memset(upper + (width - 1) * channels, 0, channels * sizeof(bf16));
        memset(lower + (width - 1) * channels, 0, channels * sizeof(bf16));
      }
    }
    if (height & 1)
      memset(out + (i * height + height - 1) * width * channels, 0, width * channels * sizeof(bf16));
  }
}
