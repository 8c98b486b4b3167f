/* 3x3 convolutions of bf16 features, for processors that multiply pairs of bf16 (AVX512-BF16), by
 * Winograd's minimal filtering F(4x4, 3x3) (Winograd 1980; Lavin and Gray 2016, arXiv:1509.09308):
 * 36 products for the 16 pixels of a tile, where the sum itself has 144.
 *
 *     y = A' [(G w G') * (B' x B)] A       for each tile of 4x4 pixels of y, from 6x6 of x
 *
 * for the points 0, +-a, +-b and infinity. With a = 5/8 and b = 3/2 what bf16 rounds in between
 * costs least: 1 % of y, where 2 and 1 cost 2.4 % (bench/notes.md). For all channels, what stands at
 * one of the 36 places is a product of matrices: of tiles and channels by channels and channels.
 * The point at infinity serves the fourth row of pixels alone, and the fourth column: a tile at the
 * edge of a picture that has none takes 30 or 25 products.
 *
 * Features are (n, height, width, channels), zeros beyond their edges. Sums are float32. Where y is
 * halved by max-pooling at once, it is (n, height / 2, width / 2, channels), without an odd last row
 * or column, and `which` of the same shape holds the place, 0 to 3, of the largest; so does its
 * gradient, which is zero at the other three.
 */
#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>

typedef uint16_t bf16;

enum {
  PLACES = 36,
  LANES = 16,       /* floats of a vector, and pairs of bf16 */
  ROWS = 12,        /* of a product that is kept in registers, beside BLOCK columns */
  BLOCK = 2 * LANES,
  TILES = 24,       /* of which features are transformed and multiplied at once, in the cache */
  CHUNK = 128,      /* the same for the gradient of filters, and twice as many */
  MANY = 1 << 15,   /* where filters are so many that adding to their sums takes its time */
  APART = 32        /* of what lies between places, so that these do not share lines of the cache */
};

_Static_assert(TILES % ROWS == 0 && CHUNK % 2 == 0, "whole products, and whole pairs of tiles");

static const __mmask32 EACH = 0xffffffff; /* lane */

/* The points, their squares, and what their filters are multiplied by. */
#define A 0.625f
#define B 1.5f
#define A2 (A * A)
#define B2 (B * B)
#define OF_A (0.5f / (A2 * (A2 - B2)))
#define OF_B (0.5f / (B2 * (B2 - A2)))

static inline long up(long value, long multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

static inline __mmask16 lanes(long left) {
  return left >= LANES ? 0xffff : left > 0 ? (__mmask16)((1u << left) - 1) : 0;
}

static inline __mmask32 lanes_of_block(long left) {
  return left >= BLOCK ? EACH : left > 0 ? (1u << left) - 1 : 0;
}

/* Where the lanes of a vector are whose values lie `step` from each other. */
static inline __m512i every(long step) {
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return _mm512_mullo_epi32(lane, _mm512_set1_epi32((int)step));
}

/* Pairs (low, high) of bf16. */
static inline void store_pairs(bf16 *to, __mmask32 mask, __m512 low, __m512 high) {
  const __m512i mixed = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
                                         23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  __m512i both = (__m512i)_mm512_cvtne2ps_pbh(high, low);
  _mm512_mask_storeu_epi16(to, mask, _mm512_permutexvar_epi16(mixed, both));
}

/* The transforms of a row or column, whose values lie `apart` vectors from each other, and `to_apart`
 * where they go. */

static inline void input_row(__m512 *to, const __m512 *d, long apart, long to_apart) { /* B' */
  __m512 d0 = d[0], d1 = d[apart], d2 = d[2 * apart], d3 = d[3 * apart], d4 = d[4 * apart];
  __m512 even = d4 - B2 * d2, odd = A * (d3 - B2 * d1);
  to[0] = A2 * B2 * d0 - (A2 + B2) * d2 + d4;
  to[to_apart] = even + odd, to[2 * to_apart] = even - odd;
  even = d4 - A2 * d2, odd = B * (d3 - A2 * d1);
  to[3 * to_apart] = even + odd, to[4 * to_apart] = even - odd;
  to[5 * to_apart] = A2 * B2 * d1 - (A2 + B2) * d3 + d[5 * apart];
}

static inline void filter_row(__m512 *to, const __m512 *g, long apart, long to_apart) { /* G */
  __m512 g0 = g[0], g1 = g[apart], g2 = g[2 * apart];
  __m512 even = OF_A * (g0 + A2 * g2), odd = OF_A * A * g1;
  to[0] = g0 * (1 / (A2 * B2));
  to[to_apart] = even + odd, to[2 * to_apart] = even - odd;
  even = OF_B * (g0 + B2 * g2), odd = OF_B * B * g1;
  to[3 * to_apart] = even + odd, to[4 * to_apart] = even - odd;
  to[5 * to_apart] = g2;
}

static inline void output_row(__m512 *to, const __m512 *m, long apart, long to_apart) { /* A' */
  __m512 even_a = m[apart] + m[2 * apart], odd_a = A * (m[apart] - m[2 * apart]);
  __m512 even_b = m[3 * apart] + m[4 * apart], odd_b = B * (m[3 * apart] - m[4 * apart]);
  to[0] = m[0] + even_a + even_b;
  to[to_apart] = odd_a + odd_b;
  to[2 * to_apart] = A2 * even_a + B2 * even_b;
  to[3 * to_apart] = A2 * odd_a + B2 * odd_b + m[5 * apart];
}

static inline void gradient_row(__m512 *to, const __m512 *y, long apart, long to_apart) { /* A */
  __m512 y0 = y[0], y1 = y[apart], y2 = y[2 * apart], y3 = y[3 * apart];
  __m512 even = y0 + A2 * y2, odd = A * (y1 + A2 * y3);
  to[0] = y0;
  to[to_apart] = even + odd, to[2 * to_apart] = even - odd;
  even = y0 + B2 * y2, odd = B * (y1 + B2 * y3);
  to[3 * to_apart] = even + odd, to[4 * to_apart] = even - odd;
  to[5 * to_apart] = y3;
}

static inline void filter_row_back(__m512 *to, const __m512 *u, long apart, long to_apart) { /* G' */
  __m512 even_a = OF_A * (u[apart] + u[2 * apart]), odd_a = OF_A * (u[apart] - u[2 * apart]);
  __m512 even_b = OF_B * (u[3 * apart] + u[4 * apart]), odd_b = OF_B * (u[3 * apart] - u[4 * apart]);
  to[0] = u[0] * (1 / (A2 * B2)) + even_a + even_b;
  to[to_apart] = A * odd_a + B * odd_b;
  to[2 * to_apart] = A2 * even_a + B2 * even_b + u[5 * apart];
}

/* sums (ROWS x BLOCK), added to what is there if `add`: over all steps, pairs of bf16 from
 * a[row * a_row + step * a_step], times as many from b[step * b_step + column]. */
static inline void product(const int32_t *a, long a_row, long a_step, const int32_t *b, long b_step,
                           float *sums, long steps, int add) {
  __m512 sum[ROWS][2];
#pragma GCC unroll 12
  for (int r = 0; r < ROWS; r++)
    for (int q = 0; q < 2; q++)
      sum[r][q] = add ? _mm512_load_ps(sums + r * BLOCK + q * LANES) : _mm512_setzero_ps();
  for (long s = 0; s < steps; s++) {
    __m512bh right0 = (__m512bh)_mm512_load_si512(b + s * b_step);
    __m512bh right1 = (__m512bh)_mm512_load_si512(b + s * b_step + LANES);
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; r++) {
      __m512bh left = (__m512bh)_mm512_set1_epi32(a[r * a_row + s * a_step]);
      sum[r][0] = _mm512_dpbf16_ps(sum[r][0], left, right0);
      sum[r][1] = _mm512_dpbf16_ps(sum[r][1], left, right1);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < ROWS; r++)
    for (int q = 0; q < 2; q++) _mm512_store_ps(sums + r * BLOCK + q * LANES, sum[r][q]);
}

/* A tile: which picture, and where its pixels of y begin. */
typedef struct {
  long image, row, column;
} Tile;

/* Features, and where they are pooled the places of the largest, else a null pointer. */
typedef struct {
  const bf16 *values;
  const uint8_t *which;
  long n, height, width, channels; /* as they are before pooling */
} Features;

/* Up to `count` tiles that take the same places, from the `first` of their kind: whether these have a
 * fourth row and column of pixels, where the first of a picture begins, and how many that has. */
typedef struct {
  int tall, wide;
  long row, column, rows, columns, first, count;
} Chunk;

static inline int takes(const Chunk *chunk, long place) {
  return (place / 6 < 5 || chunk->tall) && (place % 6 < 5 || chunk->wide);
}

static inline Tile tile_at(long index, const Chunk *chunk) {
  return (Tile){index / (chunk->rows * chunk->columns),
                chunk->row + index / chunk->columns % chunk->rows * 4,
                chunk->column + index % chunk->columns * 4};
}

static inline long tiles_of(const Features *x) {
  return ((x->height + 3) / 4) * ((x->width + 3) / 4);
}

/* Chunks of `size` tiles, some of them fewer or none: all that `size` pictures have, then the next. */
static inline long chunks_of(const Features *x, long size) {
  return (x->n + size - 1) / size * tiles_of(x);
}

static inline Chunk chunk_at(long index, long size, const Features *x) {
  long group = index / tiles_of(x), rest = index % tiles_of(x);
  for (int kind = 0;; kind++) {
    int tall = !(kind & 2), wide = !(kind & 1);
    long row = tall ? 0 : x->height / 4 * 4, rows = tall ? x->height / 4 : x->height % 4 > 0;
    long column = wide ? 0 : x->width / 4 * 4, columns = wide ? x->width / 4 : x->width % 4 > 0;
    if (rest < rows * columns) {
      long first = (group * rows * columns + rest) * size, left = x->n * rows * columns - first;
      return (Chunk){tall, wide, row, column, rows, columns, first, left < size ? left : size};
    }
    rest -= rows * columns;
  }
}

/* The channels of a pixel: all of them where `which` is null, else those whose place it is. */
typedef struct {
  const bf16 *values;
  const uint8_t *which;
  int place;
} Pixel;

/* `side` x `side` pixels that begin `before` rows and columns before the tile; those beyond the edges
 * of the picture, and of tiles beyond the last, are `zeros`. */
static inline void find_pixels(Pixel *pixels, int side, int before, const Features *x,
                               const bf16 *zeros, Tile tile) {
  int pooled = x->which != 0;
  long height = x->height >> pooled, width = x->width >> pooled;
  for (int i = 0; i < side; i++) {
    long row = tile.row - before + i, r = row >> pooled;
    int inside = tile.image < x->n && r >= 0 && r < height;
    long at = (tile.image * height + r) * width * x->channels;
    for (int j = 0; j < side; j++) {
      long column = tile.column - before + j, q = column >> pooled;
      int there = inside && q >= 0 && q < width;
      *pixels++ = (Pixel){there ? x->values + at + q * x->channels : zeros,
                          there && pooled ? x->which + at + q * x->channels : 0,
                          (int)((row & 1) * 2 + (column & 1))};
    }
  }
}

/* Where 32 channels of these pixels begin, into the cache. */
static inline void fetch_ahead(const Pixel *pixels, int count, long c) {
  for (int i = 0; i < count; i++) {
    _mm_prefetch((const char *)(pixels[i].values + c), _MM_HINT_T0);
    if (pixels[i].which) _mm_prefetch((const char *)(pixels[i].which + c), _MM_HINT_T0);
  }
}

/* 16 channels of a pixel. */
static inline __m512 load(const Pixel *pixel, long c, __mmask16 mask) {
  if (pixel->which)
    mask = _mm_mask_cmpeq_epi8_mask(mask, _mm_maskz_loadu_epi8(mask, pixel->which + c),
                                    _mm_set1_epi8((char)pixel->place));
  __m256i bits = _mm256_maskz_loadu_epi16(mask, pixel->values + c);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

/* 32 channels of a pixel, even and odd ones apart, as they come without being moved. */
static inline void load_pairs(__m512 *even, __m512 *odd, const Pixel *pixel, long c, __mmask32 mask) {
  if (pixel->which)
    mask = _mm256_mask_cmpeq_epi8_mask(mask, _mm256_maskz_loadu_epi8(mask, pixel->which + c),
                                       _mm256_set1_epi8((char)pixel->place));
  __m512i bits = _mm512_maskz_loadu_epi16(mask, pixel->values + c);
  *even = _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
  *odd = _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32((int)0xffff0000)));
}

/* The transforms of two things at once, in two steps: first the columns, of each; then the rows, of
 * which both are stored as pairs, `apart` values from one place to the next. */

/* B' x B of 16 channels: B' x. */
static inline void input_columns(__m512 *t, const Pixel *pixels, long c, __mmask16 mask,
                                 const Chunk *chunk) {
  for (int j = 0; j < 5 + chunk->wide; j++) {
    __m512 d[6];
    for (int i = 0; i < 6; i++) d[i] = load(pixels + 6 * i + j, c, mask);
    input_row(t + j, d, 1, 6);
  }
}

/* The same of even and of odd ones of 32. */
static inline void input_columns_of_pairs(__m512 *even, __m512 *odd, const Pixel *pixels, long c,
                                          __mmask32 mask, const Chunk *chunk) {
  for (int j = 0; j < 5 + chunk->wide; j++) {
    __m512 d[6], e[6];
    for (int i = 0; i < 6; i++) load_pairs(d + i, e + i, pixels + 6 * i + j, c, mask);
    input_row(even + j, d, 1, 6);
    input_row(odd + j, e, 1, 6);
  }
}

/* A y A' of 16 channels: A y. */
static inline void gradient_columns(__m512 *t, const Pixel *pixels, long c, __mmask16 mask) {
  for (int j = 0; j < 4; j++) {
    __m512 y[4];
    for (int i = 0; i < 4; i++) y[i] = load(pixels + 4 * i + j, c, mask);
    gradient_row(t + j, y, 1, 4);
  }
}

typedef void Row(__m512 *to, const __m512 *from, long apart, long to_apart);

static inline __attribute__((always_inline)) void store_rows(bf16 *to, long apart, Row *row, int side,
                                                             const __m512 *low, const __m512 *high,
                                                             const Chunk *chunk) {
  for (int i = 0; i < 5 + chunk->tall; i++) {
    __m512 a[6], b[6]; /* in registers, as long as the loops over them are of known length */
    row(a, low + side * i, 1, 1);
    row(b, high + side * i, 1, 1);
    for (int j = 0; j < 6; j++)
      if (j < 5 || chunk->wide) store_pairs(to + (6 * i + j) * apart, EACH, a[j], b[j]);
  }
}

/* A' m A of 16 channels: A' m; m has `apart` floats from one place to the next. */
static inline void output_columns(__m512 *t, const float *m, long apart, const Chunk *chunk) {
  for (int j = 0; j < 5 + chunk->wide; j++) {
    __m512 d[6] = {0};
    for (int i = 0; i < 6; i++)
      if (i < 5 || chunk->tall) d[i] = _mm512_load_ps(m + (6 * i + j) * apart);
    output_row(t + j, d, 1, 6);
  }
}

/* The largest of two by two, of rows of four, and which it is; what is not a number is larger than
 * any. */
static inline __m512 largest(const __m512 *y, __m512i *which) {
  __m512 best = _mm512_max_ps(_mm512_max_ps(y[0], y[1]), _mm512_max_ps(y[4], y[5]));
  __mmask16 strange = _mm512_cmp_ps_mask(y[0], y[1], _CMP_UNORD_Q) |
                      _mm512_cmp_ps_mask(y[4], y[5], _CMP_UNORD_Q);
  *which = _mm512_set1_epi32(3);
  for (int k = 2; k >= 0; k--)
    *which = _mm512_mask_mov_epi32(*which, _mm512_cmp_ps_mask(best, y[k / 2 * 4 + k % 2], _CMP_EQ_OQ),
                                   _mm512_set1_epi32(k));
  return _mm512_mask_add_ps(best, strange, _mm512_add_ps(y[0], y[1]), _mm512_add_ps(y[4], y[5]));
}

/* Filters (out, in, 3, 3) to G w G': (PLACES, blocks of BLOCK output channels, pairs of input
 * channels, BLOCK, 2); of a block, even channels before odd ones. If `back`, for the gradient of x:
 * turned by half a turn, input and output exchanged. Returns how many bf16 these are, and writes them
 * if there is somewhere to. */
long winograd_filters(const float *w, bf16 *u, long in, long out, long back) {
  long from = back ? out : in, to = back ? in : out;
  long blocks = (to + BLOCK - 1) / BLOCK, pairs = (from + 1) / 2, place = blocks * pairs * BLOCK * 2;
  if (!u) return PLACES * place;
  long step = back ? 9 : in * 9;
  __m512i at = every(2 * step);
#pragma omp parallel for schedule(static)
  for (long pair = 0; pair < pairs; pair++)
    for (long k = 0; k < blocks * BLOCK; k += LANES) {
      const long column = k % BLOCK ? k - LANES + 1 : k;
      __m512 v[2][PLACES];
      for (long odd = 0; odd < 2; odd++) {
        long c = 2 * pair + odd;
        __mmask16 mask = c < from ? lanes((to - column + 1) / 2) : 0;
        const float *base = w + column * step + c * (back ? in * 9 : 9);
        __m512 g[9], t[18];
        for (int i = 0; i < 9; i++)
          g[back ? 8 - i : i] = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), mask, at, base + i, 4);
        for (int j = 0; j < 3; j++) filter_row(t + j, g + j, 3, 3);
        for (int i = 0; i < 6; i++) filter_row(v[odd] + 6 * i, t + 3 * i, 1, 1);
      }
      bf16 *first = u + ((k / BLOCK * pairs + pair) * BLOCK + k % BLOCK) * 2;
      for (int p = 0; p < PLACES; p++) store_pairs(first + p * place, EACH, v[0][p], v[1][p]);
    }
  return PLACES * place;
}

/* y of x and filters as above; either may be pooled. Returns 0, or -1 where there is no memory. */
long winograd(const bf16 *x, const uint8_t *which_x, const bf16 *u, bf16 *y, uint8_t *which_y, long n,
              long height, long width, long in, long out) {
  const Features features = {x, which_x, n, height, width, in};
  const long pooled = which_y != 0, rows = height >> pooled, columns = width >> pooled;
  long depth = up(in, BLOCK), pairs = (in + 1) / 2, blocks = (out + BLOCK - 1) / BLOCK, failed = 0;
  long chunks = chunks_of(&features, TILES);
  long apart_x = TILES * depth + APART, apart_y = TILES * BLOCK + APART;
#pragma omp parallel reduction(| : failed)
  {
    bf16 *v = aligned_alloc(64, PLACES * apart_x * sizeof(bf16));
    float *m = aligned_alloc(64, PLACES * apart_y * sizeof(float));
    bf16 *zeros = calloc(depth, sizeof(bf16));
    failed = !v || !m || !zeros;
    __m512 even[PLACES] = {0}, odd[PLACES] = {0}; /* where no place is taken, of another tile: no result */
#pragma omp for schedule(dynamic)
    for (long index = 0; index < chunks; index++) {
      const Chunk chunk = chunk_at(index, TILES, &features);
      if (failed || chunk.count < 1) continue;
      Pixel pixels[2][36];
      find_pixels(pixels[0], 6, 1, &features, zeros, tile_at(chunk.first, &chunk));
      for (long t = 0; t < chunk.count; t++) {
        find_pixels(pixels[(t + 1) % 2], 6, 1, &features, zeros, tile_at(chunk.first + t + 1, &chunk));
        for (long c = 0; c < depth; c += BLOCK) {
          fetch_ahead(pixels[(t + 1) % 2], 36, c);
          input_columns_of_pairs(even, odd, pixels[t % 2], c, lanes_of_block(in - c), &chunk);
          store_rows(v + t * depth + c, apart_x, input_row, 6, even, odd, &chunk);
        }
      }
      for (long k = 0; k < blocks; k++) {
        for (long p = 0; p < PLACES; p++) {
          if (!takes(&chunk, p)) continue;
          for (long t = 0; t < chunk.count; t += ROWS)
            product((const int32_t *)(v + p * apart_x + t * depth), depth / 2, 1,
                    (const int32_t *)(u + (p * blocks + k) * pairs * BLOCK * 2), BLOCK,
                    m + p * apart_y + t * BLOCK, pairs, 0);
        }
        for (long t = 0; t < chunk.count; t++) {
          Tile tile = tile_at(chunk.first + t, &chunk);
          long row = tile.row >> pooled, column = tile.column >> pooled, side = 4 >> pooled;
          long at = ((tile.image * rows + row) * columns + column) * out + k * BLOCK;
          __mmask32 mask = lanes_of_block(out - k * BLOCK);
          output_columns(even, m + t * BLOCK, apart_y, &chunk);
          output_columns(odd, m + t * BLOCK + LANES, apart_y, &chunk);
          for (long i = 0; i < side && row + i < rows; i++) {
            __m512 a[8], b[8];
            for (long half = 0; half <= pooled; half++) {
              output_row(a + 4 * half, even + 6 * (i + pooled * i + half), 1, 1);
              output_row(b + 4 * half, odd + 6 * (i + pooled * i + half), 1, 1);
            }
            for (long j = 0; j < side && column + j < columns; j++) {
              long to = at + (i * columns + j) * out;
              if (pooled) {
                __m512i which_a, which_b;
                __m512 best_a = largest(a + 2 * j, &which_a), best_b = largest(b + 2 * j, &which_b);
                store_pairs(y + to, mask, best_a, best_b);
                _mm512_mask_cvtepi16_storeu_epi8(which_y + to, mask,
                                                 which_a | _mm512_slli_epi32(which_b, 16));
              } else {
                store_pairs(y + to, mask, a[j], b[j]);
              }
            }
          }
        }
      }
    }
    free(v), free(m), free(zeros);
  }
  return -failed;
}

/* Where the sum is of a place, an input and an output channel: what a product sums lies together, so
 * that the next ones are fetched ahead. */
static inline long sum_at(long p, long c, long k, long down, long across) {
  return (p * across + k / BLOCK * BLOCK) * down + c * BLOCK + k % BLOCK;
}

/* The gradient (out, in, 3, 3) of the filters, from x and the gradient of y, which may be pooled.
 * Pictures are parted into `shares`, summed side by side and then added up in order. Returns as above. */
long winograd_filters_back(const bf16 *x, const bf16 *gradient, const uint8_t *which,
                           float *of_filters, long n, long height, long width, long in, long out,
                           long shares) {
  long depth = up(in, LANES), across = up(out, BLOCK), down = up(in, ROWS);
  const long size = in * out < MANY ? CHUNK : 2 * CHUNK, pooled = which != 0;
  const long of_picture = (height >> pooled) * (width >> pooled) * out;
  /* Transforms of two tiles at a time, in pairs: (PLACES, pairs of tiles, channels, 2). */
  long apart_x = size * depth + APART, apart_y = size * across + APART;
  long of_u = PLACES * down * across, failed = 0;
  float *u = aligned_alloc(64, shares * of_u * sizeof(float));
  char *begun = calloc(shares, PLACES); /* sums of a share at a place */
  if (!u || !begun) return free(u), free(begun), -1;
#pragma omp parallel for schedule(static) reduction(| : failed)
  for (long s = 0; s < shares; s++) {
    /* The last rows of a product read up to eleven channels more than there are: within APART. */
    bf16 *v = aligned_alloc(64, PLACES * apart_x * sizeof(bf16));
    bf16 *d = aligned_alloc(64, PLACES * apart_y * sizeof(bf16));
    bf16 *zeros = calloc(depth > across ? depth : across, sizeof(bf16));
    failed |= !v || !d || !zeros;
    __m512 a[PLACES] = {0}, b[PLACES] = {0}; /* where no place is taken, of another tile: no result */
    const long begin = n * s / shares, count = n * (s + 1) / shares - begin;
    const Features input = {x + begin * height * width * in, 0, count, height, width, in};
    const Features output = {gradient + begin * of_picture, pooled ? which + begin * of_picture : 0,
                             count, height, width, out};
    for (long index = 0; index < chunks_of(&input, size) && !failed; index++) {
      const Chunk chunk = chunk_at(index, size, &input);
      if (chunk.count < 1) continue;
      const long pairs = (chunk.count + 1) / 2;
      Pixel of_input[2][2][36], of_output[2][2][16]; /* of this pair and of the next, in turn */
      for (long pair = -1; pair < pairs; pair++) {
        Pixel(*next_x)[36] = of_input[(pair + 1) % 2], (*next_y)[16] = of_output[(pair + 1) % 2];
        /* Odd counts are the last of their kind: beside it stands one of a picture after the last. */
        for (int odd = 0; odd < 2; odd++) {
          Tile tile = tile_at(chunk.first + 2 * pair + 2 + odd, &chunk);
          find_pixels(next_x[odd], 6, 1, &input, zeros, tile);
          find_pixels(next_y[odd], 4, 0, &output, zeros, tile);
        }
        if (pair < 0) continue;
        Pixel(*of_x)[36] = of_input[pair % 2], (*of_y)[16] = of_output[pair % 2];
        for (long c = 0; c < depth; c += LANES) {
          if (c % BLOCK == 0) fetch_ahead(next_x[0], 36, c), fetch_ahead(next_x[1], 36, c);
          input_columns(a, of_x[0], c, lanes(in - c), &chunk);
          input_columns(b, of_x[1], c, lanes(in - c), &chunk);
          store_rows(v + (pair * depth + c) * 2, apart_x, input_row, 6, a, b, &chunk);
        }
        for (long c = 0; c < across; c += LANES) {
          if (c % BLOCK == 0) fetch_ahead(next_y[0], 16, c), fetch_ahead(next_y[1], 16, c);
          gradient_columns(a, of_y[0], c, lanes(out - c));
          gradient_columns(b, of_y[1], c, lanes(out - c));
          store_rows(d + (pair * across + c) * 2, apart_y, gradient_row, 4, a, b, &chunk);
        }
      }
      for (long p = 0; p < PLACES; p++) {
        if (!takes(&chunk, p)) continue;
        char *added = begun + s * PLACES + p;
        for (long k = 0; k < across; k += BLOCK)
          for (long c = 0; c < in; c += ROWS)
            product((const int32_t *)(v + p * apart_x) + c, 1, depth,
                    (const int32_t *)(d + p * apart_y) + k, across,
                    u + s * of_u + sum_at(p, c, k, down, across), pairs, *added);
        *added = 1;
      }
    }
    free(v), free(d), free(zeros);
  }
  __m512i at = every(in * 9);
#pragma omp parallel for schedule(static)
  for (long c = 0; c < in; c++)
    for (long k = 0; k < out; k += LANES) {
      __m512 sums[PLACES], t[18], g[9];
      for (int p = 0; p < PLACES; p++) {
        sums[p] = _mm512_setzero_ps();
        for (long s = 0; s < shares; s++)
          if (begun[s * PLACES + p])
            sums[p] += _mm512_load_ps(u + s * of_u + sum_at(p, c, k, down, across));
      }
      for (int j = 0; j < 6; j++) filter_row_back(t + j, sums + j, 6, 6);
      for (int i = 0; i < 3; i++) filter_row_back(g + 3 * i, t + 6 * i, 1, 1);
      for (int i = 0; i < 9; i++)
        _mm512_mask_i32scatter_ps(of_filters + (k * in + c) * 9 + i, lanes(out - k), at, g[i], 4);
    }
  free(u), free(begun);
  return -failed;
}
#endif
