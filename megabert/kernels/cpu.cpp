// Fused operators for CPUs: the functions of reference.py in float and bfloat16, threaded with OpenMP.
//
// Arithmetic is float; bfloat16 is widened on reading and rounded once on writing. Loops are written
// for the compiler to vectorize. Column sums are made in blocks of rows and added in the order of the
// blocks, so that results do not depend on the number of threads. NaN stays NaN everywhere.
//
// Plain C interface (see cpu.py): `kind` 0 is float, 1 bfloat16; matrices are row-major, `ld` is the
// distance between rows in elements.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

constexpr int64_t kRowBlock = 64;   // rows whose column sums are added up first
constexpr int64_t kQueryBlock = 128; // queries whose scores are in cache together

struct bf16 {
  uint16_t bits;
};

template <class To, class From>
inline To bits_of(From value) {
  To out;
  static_assert(sizeof(To) == sizeof(From));
  std::memcpy(&out, &value, sizeof(To));
  return out;
}

inline float widen(float x) { return x; }
inline float widen(bf16 x) { return bits_of<float>(uint32_t(x.bits) << 16); }

template <class T>
inline T narrow(float x);
template <>
inline float narrow<float>(float x) {
  return x;
}
template <>
inline bf16 narrow<bf16>(float x) {
  const uint32_t u = bits_of<uint32_t>(x);
  const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16; // to nearest, ties to even
  const uint32_t quiet = (u >> 16) | 0x40u;
  return bf16{uint16_t((u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded)};
}

// exp to about 1 unit in the last place (range reduction and polynomial of Cephes' expf)
inline float exp_(float x) {
  const bool too_large = x > 88.0f;
  x = x < -87.0f ? -87.0f : x; // a NaN passes
  x = too_large ? 88.0f : x;
  const float n = (x * 1.44269504088896341f + 12582912.0f) - 12582912.0f; // nearest whole number
  float r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  p *= bits_of<float>((int32_t(n) + 127) << 23);
  return too_large ? INFINITY : p;
}

// Normal distribution function, absolute error below 1e-7 (Abramowitz and Stegun 7.1.26);
// `density` comes out as exp(-x^2 / 2).
inline float phi_(float x, float& density) {
  const float z = std::fabs(x) * 0.70710678118654752f;
  const float t = 1.0f / (1.0f + 0.3275911f * z);
  density = exp_(-z * z);
  float p = 1.061405429f;
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const float tail = 0.5f * p * t * density;
  return x < 0.0f ? tail : 1.0f - tail;
}

inline uint64_t mix64(uint64_t v) {
  v += 0x9e3779b97f4a7c15ull;
  v = (v ^ (v >> 30)) * 0xbf58476d1ce4e5b9ull;
  v = (v ^ (v >> 27)) * 0x94d049bb133111ebull;
  return v ^ (v >> 31);
}

inline uint32_t unit_hash(uint32_t column, uint32_t low, uint32_t high) {
  uint32_t x = column + low;
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x ^= high;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

// Dropout at one place; threshold 0 means none.
struct Mask {
  const int64_t* rows;
  uint64_t seed;
  uint32_t threshold;
  float scale;

  bool on() const { return threshold != 0; }
  uint64_t key(int64_t row, uint64_t place) const { return mix64(uint64_t(rows[row]) ^ place); }
};

// v[c] = kept ? v[c] * scale : 0, for one row of n units
inline void drop_row(float* v, int64_t n, const Mask& mask, uint64_t key) {
  const uint32_t low = uint32_t(key), high = uint32_t(key >> 32), threshold = mask.threshold;
  const float scale = mask.scale;
#pragma omp simd
  for (int64_t c = 0; c < n; ++c)
    v[c] = unit_hash(uint32_t(c), low, high) >= threshold ? v[c] * scale : 0.0f;
}

int64_t blocks_of(int64_t rows) { return (rows + kRowBlock - 1) / kRowBlock; }

// out[c] = sum over blocks of partial[block * stride + c], in order
void add_blocks(const float* partial, int64_t blocks, int64_t stride, int64_t columns, float* out) {
#pragma omp parallel for schedule(static)
  for (int64_t c = 0; c < columns; ++c) {
    float sum = 0.0f;
    for (int64_t b = 0; b < blocks; ++b) sum += partial[b * stride + c];
    out[c] = sum;
  }
}

template <class T>
void drop(const T* x, T* y, int64_t rows, int64_t columns, Mask mask) {
#pragma omp parallel
  {
    std::vector<float> v(columns);
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; ++r) {
      const T* in = x + r * columns;
      T* out = y + r * columns;
      for (int64_t c = 0; c < columns; ++c) v[c] = widen(in[c]);
      drop_row(v.data(), columns, mask, mask.key(r, mask.seed));
      for (int64_t c = 0; c < columns; ++c) out[c] = narrow<T>(v[c]);
    }
  }
}

template <class T>
void gelu_forward(const T* x, const float* bias, T* y, int64_t rows, int64_t columns) {
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < rows; ++r) {
    const T* in = x + r * columns;
    T* out = y + r * columns;
#pragma omp simd
    for (int64_t c = 0; c < columns; ++c) {
      float density;
      const float v = widen(in[c]) + bias[c];
      out[c] = narrow<T>(v * phi_(v, density));
    }
  }
}

template <class T>
void gelu_backward(const T* grad, const T* x, const float* bias, T* grad_x, float* grad_bias,
                   int64_t rows, int64_t columns) {
  const int64_t blocks = blocks_of(rows);
  std::vector<float> partial(size_t(blocks * columns), 0.0f);
#pragma omp parallel for schedule(static)
  for (int64_t b = 0; b < blocks; ++b) {
    float* sums = partial.data() + b * columns;
    for (int64_t r = b * kRowBlock; r < std::min(rows, (b + 1) * kRowBlock); ++r) {
      const T* in = x + r * columns;
      const T* g = grad + r * columns;
      T* out = grad_x + r * columns;
#pragma omp simd
      for (int64_t c = 0; c < columns; ++c) {
        float density;
        const float v = widen(in[c]) + bias[c];
        const float phi = phi_(v, density);
        const float d = widen(g[c]) * (phi + v * density * 0.39894228040143268f);
        out[c] = narrow<T>(d);
        sums[c] += d;
      }
    }
  }
  add_blocks(partial.data(), blocks, columns, columns, grad_bias);
}

template <class T>
void norm_forward(const T* x, const float* bias, const T* residual, const float* weight,
                  const float* norm_bias, float eps, Mask mask, T* total, T* normed, float* mean,
                  float* rstd, int64_t rows, int64_t columns) {
#pragma omp parallel
  {
    std::vector<float> buffer(columns);
    float* v = buffer.data();
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; ++r) {
      const T* in = x + r * columns;
      const T* res = residual + r * columns;
      T* sum_out = total + r * columns;
      T* norm_out = normed + r * columns;
      if (bias != nullptr) {
        for (int64_t c = 0; c < columns; ++c) v[c] = widen(in[c]) + bias[c];
      } else {
        for (int64_t c = 0; c < columns; ++c) v[c] = widen(in[c]);
      }
      if (mask.on()) drop_row(v, columns, mask, mask.key(r, mask.seed));
      float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
      for (int64_t c = 0; c < columns; ++c) {
        const T rounded = narrow<T>(widen(res[c]) + v[c]);
        sum_out[c] = rounded;
        v[c] = widen(rounded);
        sum += v[c];
      }
      const float middle = sum / float(columns);
      float square = 0.0f;
#pragma omp simd reduction(+ : square)
      for (int64_t c = 0; c < columns; ++c) {
        const float d = v[c] - middle;
        square += d * d;
      }
      const float inverse = 1.0f / std::sqrt(square / float(columns) + eps);
      mean[r] = middle;
      rstd[r] = inverse;
#pragma omp simd
      for (int64_t c = 0; c < columns; ++c)
        norm_out[c] = narrow<T>((v[c] - middle) * inverse * weight[c] + norm_bias[c]);
    }
  }
}

// `sums` holds the gradients of bias, weight and norm_bias, [3, columns]
template <class T>
void norm_backward(const T* grad, const T* grad_total, const T* total, const float* mean,
                   const float* rstd, const float* weight, Mask mask, T* grad_residual, T* grad_x,
                   float* sums, int64_t rows, int64_t columns) {
  const int64_t blocks = blocks_of(rows), stride = 3 * columns;
  std::vector<float> partial(size_t(blocks * stride), 0.0f);
#pragma omp parallel
  {
    std::vector<float> buffer(2 * columns);
    float* scaled = buffer.data();
    float* d = buffer.data() + columns;
#pragma omp for schedule(static)
    for (int64_t b = 0; b < blocks; ++b) {
      float* bias_sum = partial.data() + b * stride;
      float* weight_sum = bias_sum + columns;
      float* norm_bias_sum = weight_sum + columns;
      for (int64_t r = b * kRowBlock; r < std::min(rows, (b + 1) * kRowBlock); ++r) {
        const T* z = total + r * columns;
        const float middle = mean[r], inverse = rstd[r];
        if (grad_total != nullptr) {
          for (int64_t c = 0; c < columns; ++c) d[c] = widen(grad_total[r * columns + c]);
        } else {
          std::fill(d, d + columns, 0.0f);
        }
        if (grad != nullptr) {
          const T* g = grad + r * columns;
          float along = 0.0f, across = 0.0f;
#pragma omp simd reduction(+ : along, across)
          for (int64_t c = 0; c < columns; ++c) {
            const float white = (widen(z[c]) - middle) * inverse, wide = widen(g[c]);
            scaled[c] = wide * weight[c];
            along += scaled[c] * white;
            across += scaled[c];
            weight_sum[c] += wide * white;
            norm_bias_sum[c] += wide;
          }
          along /= float(columns);
          across /= float(columns);
#pragma omp simd
          for (int64_t c = 0; c < columns; ++c) {
            const float white = (widen(z[c]) - middle) * inverse;
            d[c] += (scaled[c] - across - white * along) * inverse;
          }
        }
        T* res = grad_residual + r * columns;
        for (int64_t c = 0; c < columns; ++c) res[c] = narrow<T>(d[c]);
        if (mask.on()) {
          drop_row(d, columns, mask, mask.key(r, mask.seed));
          T* out = grad_x + r * columns;
          for (int64_t c = 0; c < columns; ++c) out[c] = narrow<T>(d[c]);
        }
        for (int64_t c = 0; c < columns; ++c) bias_sum[c] += d[c];
      }
    }
  }
  add_blocks(partial.data(), blocks, stride, stride, sums);
}

using Sgemm = void (*)(const char*, const char*, const int*, const int*, const int*, const float*,
                       const float*, const int*, const float*, const int*, const float*, float*,
                       const int*);
Sgemm sgemm_ = nullptr; // Fortran BLAS of the torch that is installed

// C[m, n] = alpha op(A) op(B) + beta C, row-major
inline void product(bool a_transposed, bool b_transposed, int64_t m, int64_t n, int64_t k,
                    float alpha, const float* a, int64_t lda, const float* b, int64_t ldb,
                    float beta, float* c, int64_t ldc) {
  const int im = int(m), in = int(n), ik = int(k), ia = int(lda), ib = int(ldb), ic = int(ldc);
  sgemm_(b_transposed ? "T" : "N", a_transposed ? "T" : "N", &in, &im, &ik, &alpha, b, &ib, a, &ia,
         &beta, c, &ic);
}

struct Panel {
  const float* data;
  int64_t ld;
};

// A head's columns of one sequence as floats: where they are, or widened into `scratch`
inline Panel panel(const float* x, int64_t ld, int64_t, int64_t, float*) { return {x, ld}; }
inline Panel panel(const bf16* x, int64_t ld, int64_t rows, int64_t width, float* scratch) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < width; ++c) scratch[r * width + c] = widen(x[r * ld + c]);
  return {scratch, width};
}

// Where to put floats that belong into a head's columns: there, or `scratch`, to be put there later
inline float* target(float* x, int64_t, float*) { return x; }
inline float* target(bf16*, int64_t, float* scratch) { return scratch; }
inline int64_t target_ld(const float*, int64_t ld, int64_t) { return ld; }
inline int64_t target_ld(const bf16*, int64_t, int64_t width) { return width; }
inline void put(float*, int64_t, int64_t, int64_t, const float*) {}
inline void put(bf16* x, int64_t ld, int64_t rows, int64_t width, const float* scratch) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < width; ++c) x[r * ld + c] = narrow<bf16>(scratch[r * width + c]);
}

struct Shape {
  const int64_t* spans; // begin and end of each sequence
  int64_t sequences, heads, width, tokens, max_length;
};

// Vectors added to keys and values by the distance between key and query (kernels/attention/relative_reference.py):
// row b of `table`, [2 most + 1, width], is that of distance b - most and, at both ends, of all beyond.
struct Relative {
  const float* table;
  int64_t most;

  bool on() const { return table != nullptr; }
  int64_t room() const { return on() ? kQueryBlock * (2 * most + 1) : 0; }
};

// The distances between the queries q0 .. q0 + queries - 1 of a sequence and all its keys: rows
// first .. first + count - 1 of the table. A buffer has one such row of numbers a query.
struct Distances {
  int64_t q0, queries, length, most, first, count;

  Distances(const Relative& relative, int64_t q0, int64_t queries, int64_t length)
      : q0(q0), queries(queries), length(length), most(relative.most) {
    first = std::max<int64_t>(0, most - (q0 + queries - 1));
    count = std::min(2 * most, most + length - 1 - q0) + 1 - first;
  }

  // pairs[i, j] += of_distance[i, distance of (i, j)]
  void spread(const float* of_distance, float* pairs) const {
    for (int64_t i = 0; i < queries; ++i) {
      const int64_t begin = near(i), end = far(i), shift = most - (q0 + i) - first;
      const float* d = of_distance + i * count;
      float* row = pairs + i * length;
      for (int64_t j = 0; j < begin; ++j) row[j] += d[0];
      for (int64_t j = begin; j < end; ++j) row[j] += d[j + shift];
      for (int64_t j = end; j < length; ++j) row[j] += d[count - 1];
    }
  }

  // of_distance[i, b] = sum of pairs[i, j] over the keys j at distance b
  void sum(const float* pairs, float* of_distance) const {
    for (int64_t i = 0; i < queries; ++i) {
      const int64_t begin = near(i), end = far(i), shift = most - (q0 + i) - first;
      const float* row = pairs + i * length;
      float* d = of_distance + i * count;
      std::fill(d, d + count, 0.0f);
      for (int64_t j = begin; j < end; ++j) d[j + shift] = row[j];
      float before = 0.0f, behind = 0.0f;
#pragma omp simd reduction(+ : before)
      for (int64_t j = 0; j < begin; ++j) before += row[j];
#pragma omp simd reduction(+ : behind)
      for (int64_t j = end; j < length; ++j) behind += row[j];
      d[0] += before;
      d[count - 1] += behind;
    }
  }

private:
  // keys near(i) .. far(i) - 1 have a row of the table for themselves or begin a row of the ends
  int64_t near(int64_t i) const { return std::max<int64_t>(0, q0 + i - most); }
  int64_t far(int64_t i) const { return std::min(length, q0 + i + most + 1); }
};

// pairs += alpha times the products of the queries' rows x and the vectors of their distances
inline void add_at_pairs(const Relative& relative, const Distances& at, int64_t width, float alpha,
                         const float* x, int64_t ld, float* buffer, float* pairs) {
  product(false, true, at.queries, at.count, width, alpha, x, ld,
          relative.table + at.first * width, width, 0.0f, buffer, at.count);
  at.spread(buffer, pairs);
}

// out += for each query the sum over its pairs of pair times the vector of its distance
inline void add_over_pairs(const Relative& relative, const Distances& at, int64_t width,
                           const float* pairs, float* buffer, float* out, int64_t ld) {
  at.sum(pairs, buffer);
  product(false, false, at.queries, width, at.count, 1.0f, buffer, at.count,
          relative.table + at.first * width, width, 1.0f, out, ld);
}

template <class T>
void attend(const T* q, const T* k, const T* v, int64_t ld, T* out, float* lse, Shape s,
            int64_t first_head, float scale, Mask mask, Relative relative) {
  const int64_t out_ld = s.heads * s.width;
#pragma omp parallel
  {
    const int64_t panel_size = s.max_length * s.width;
    std::vector<float> scores(size_t(kQueryBlock * s.max_length)), scratch(size_t(4 * panel_size));
    std::vector<float> of_distance(size_t(relative.room()));
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < s.sequences * s.heads; ++task) {
      const int64_t* span = s.spans + 2 * (task / s.heads);
      const int64_t begin = span[0], length = span[1] - begin, head = task % s.heads;
      const int64_t at = begin * ld + head * s.width;
      const Panel Q = panel(q + at, ld, length, s.width, scratch.data());
      const Panel K = panel(k + at, ld, length, s.width, scratch.data() + panel_size);
      const Panel V = panel(v + at, ld, length, s.width, scratch.data() + 2 * panel_size);
      T* o = out + begin * out_ld + head * s.width;
      float* o_wide = target(o, out_ld, scratch.data() + 3 * panel_size);
      const int64_t o_ld = target_ld(o, out_ld, s.width);
      const uint64_t place = mix64(mask.seed + uint64_t(first_head + head));
      for (int64_t q0 = 0; q0 < length; q0 += kQueryBlock) {
        const int64_t queries = std::min(kQueryBlock, length - q0);
        product(false, true, queries, length, s.width, scale, Q.data + q0 * Q.ld, Q.ld, K.data, K.ld,
                0.0f, scores.data(), length);
        const Distances at(relative, q0, queries, length);
        if (relative.on())
          add_at_pairs(relative, at, s.width, scale, Q.data + q0 * Q.ld, Q.ld, of_distance.data(),
                       scores.data());
        for (int64_t i = 0; i < queries; ++i) {
          float* row = scores.data() + i * length;
          float largest = row[0];
#pragma omp simd reduction(max : largest)
          for (int64_t j = 0; j < length; ++j) largest = row[j] > largest ? row[j] : largest;
          float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
          for (int64_t j = 0; j < length; ++j) {
            row[j] = exp_(row[j] - largest);
            sum += row[j];
          }
          lse[head * s.tokens + begin + q0 + i] = largest + std::log(sum);
          const float inverse = 1.0f / sum;
#pragma omp simd
          for (int64_t j = 0; j < length; ++j) row[j] *= inverse;
          if (mask.on()) drop_row(row, length, mask, mask.key(begin + q0 + i, place));
        }
        product(false, false, queries, s.width, length, 1.0f, scores.data(), length, V.data, V.ld,
                0.0f, o_wide + q0 * o_ld, o_ld);
        if (relative.on())
          add_over_pairs(relative, at, s.width, scores.data(), of_distance.data(),
                         o_wide + q0 * o_ld, o_ld);
      }
      put(o, out_ld, length, s.width, o_wide);
    }
  }
}

template <class T>
void attend_backward(const T* grad, const T* q, const T* k, const T* v, int64_t ld, const T* out,
                     const float* lse, T* grad_q, T* grad_k, T* grad_v, int64_t grad_ld, Shape s,
                     int64_t first_head, float scale, Mask mask, Relative relative) {
  const int64_t out_ld = s.heads * s.width;
#pragma omp parallel
  {
    const int64_t panel_size = s.max_length * s.width;
    std::vector<float> weights(size_t(kQueryBlock * s.max_length)), errors(weights.size());
    std::vector<float> scratch(size_t(8 * panel_size)), of_distance(size_t(relative.room()));
    const auto part = [&](int64_t number) { return scratch.data() + number * panel_size; };
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < s.sequences * s.heads; ++task) {
      const int64_t* span = s.spans + 2 * (task / s.heads);
      const int64_t begin = span[0], length = span[1] - begin, head = task % s.heads;
      const int64_t at = begin * ld + head * s.width;
      const int64_t out_at = begin * out_ld + head * s.width;
      const Panel Q = panel(q + at, ld, length, s.width, part(0));
      const Panel K = panel(k + at, ld, length, s.width, part(1));
      const Panel V = panel(v + at, ld, length, s.width, part(2));
      const Panel G = panel(grad + out_at, out_ld, length, s.width, part(3));
      const Panel O = panel(out + out_at, out_ld, length, s.width, part(4));
      const int64_t grad_at = begin * grad_ld + head * s.width;
      float* dq = target(grad_q + grad_at, grad_ld, part(5));
      float* dk = target(grad_k + grad_at, grad_ld, part(6));
      float* dv = target(grad_v + grad_at, grad_ld, part(7));
      const int64_t d_ld = target_ld(grad_q, grad_ld, s.width);
      const uint64_t place = mix64(mask.seed + uint64_t(first_head + head));
      for (int64_t q0 = 0; q0 < length; q0 += kQueryBlock) {
        const int64_t queries = std::min(kQueryBlock, length - q0);
        const float* g = G.data + q0 * G.ld;
        product(false, true, queries, length, s.width, scale, Q.data + q0 * Q.ld, Q.ld, K.data, K.ld,
                0.0f, weights.data(), length);
        product(false, true, queries, length, s.width, 1.0f, g, G.ld, V.data, V.ld, 0.0f,
                errors.data(), length);
        const Distances at(relative, q0, queries, length);
        if (relative.on()) {
          add_at_pairs(relative, at, s.width, scale, Q.data + q0 * Q.ld, Q.ld, of_distance.data(),
                       weights.data());
          add_at_pairs(relative, at, s.width, 1.0f, g, G.ld, of_distance.data(), errors.data());
        }
        for (int64_t i = 0; i < queries; ++i) {
          float* w = weights.data() + i * length;
          float* e = errors.data() + i * length;
          const float* o = O.data + (q0 + i) * O.ld;
          float inner = 0.0f;
#pragma omp simd reduction(+ : inner)
          for (int64_t c = 0; c < s.width; ++c) inner += g[i * G.ld + c] * o[c];
          const float shift = lse[head * s.tokens + begin + q0 + i];
          if (mask.on()) {
            const uint64_t key = mask.key(begin + q0 + i, place);
            const uint32_t low = uint32_t(key), high = uint32_t(key >> 32);
#pragma omp simd
            for (int64_t j = 0; j < length; ++j) {
              const float p = exp_(w[j] - shift);
              const bool keep = unit_hash(uint32_t(j), low, high) >= mask.threshold;
              const float factor = keep ? mask.scale : 0.0f;
              w[j] = p * factor;
              e[j] = p * (e[j] * factor - inner) * scale;
            }
          } else {
#pragma omp simd
            for (int64_t j = 0; j < length; ++j) {
              w[j] = exp_(w[j] - shift);
              e[j] = w[j] * (e[j] - inner) * scale;
            }
          }
        }
        const float beta = q0 == 0 ? 0.0f : 1.0f;
        product(true, false, length, s.width, queries, 1.0f, weights.data(), length, g, G.ld, beta,
                dv, d_ld);
        product(true, false, length, s.width, queries, 1.0f, errors.data(), length,
                Q.data + q0 * Q.ld, Q.ld, beta, dk, d_ld);
        product(false, false, queries, s.width, length, 1.0f, errors.data(), length, K.data, K.ld,
                0.0f, dq + q0 * d_ld, d_ld);
        if (relative.on())
          add_over_pairs(relative, at, s.width, errors.data(), of_distance.data(), dq + q0 * d_ld,
                         d_ld);
      }
      put(grad_q + grad_at, grad_ld, length, s.width, dq);
      put(grad_k + grad_at, grad_ld, length, s.width, dk);
      put(grad_v + grad_at, grad_ld, length, s.width, dv);
    }
  }
}

template <class T>
void summarize(const T* logits, const int64_t* labels, float* out, int64_t rows, int64_t ld,
               int64_t first, int64_t real) {
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < rows; ++r) {
    const T* x = logits + r * ld;
    float largest = widen(x[0]);
#pragma omp simd reduction(max : largest)
    for (int64_t c = 0; c < real; ++c) {
      const float value = widen(x[c]);
      largest = value > largest ? value : largest;
    }
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < real; ++c) sum += exp_(widen(x[c]) - largest);
    int64_t column = 0;
    while (column + 1 < real && widen(x[column]) != largest) ++column;
    const int64_t local = labels[r] - first;
    const bool here = local >= 0 && local < real;
    out[4 * r] = largest + std::log(sum);
    out[4 * r + 1] = here ? widen(x[local]) : 0.0f;
    out[4 * r + 2] = largest;
    out[4 * r + 3] = float(column + first);
  }
}

template <class T>
void loss_gradient(T* logits, const int64_t* labels, const float* lse, int64_t rows, int64_t ld,
                   int64_t first, int64_t real) {
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < rows; ++r) {
    T* x = logits + r * ld;
    const float shift = lse[r];
    const int64_t local = labels[r] - first;
    const bool here = local >= 0 && local < real;
    const float expected = here ? exp_(widen(x[local]) - shift) - 1.0f : 0.0f;
#pragma omp simd
    for (int64_t c = 0; c < real; ++c) x[c] = narrow<T>(exp_(widen(x[c]) - shift));
    if (here) x[local] = narrow<T>(expected);
    for (int64_t c = real; c < ld; ++c) x[c] = narrow<T>(0.0f);
  }
}

// table[ids[r] - first] += grad[r], where that is a row of the table; the table is cleared before
template <class T>
void add_rows(const T* grad, const int64_t* ids, float* table, int64_t rows, int64_t table_rows,
              int64_t columns, int64_t first) {
  const int64_t width = 64, strips = (columns + width - 1) / width;
#pragma omp parallel for schedule(static)
  for (int64_t t = 0; t < table_rows; ++t)
    std::memset(table + t * columns, 0, size_t(columns) * sizeof(float));
#pragma omp parallel for schedule(static)
  for (int64_t strip = 0; strip < strips; ++strip) {
    const int64_t from = strip * width, to = std::min(columns, from + width);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t row = ids[r] - first;
      if (row < 0 || row >= table_rows) continue;
      float* sum = table + row * columns;
      const T* g = grad + r * columns;
#pragma omp simd
      for (int64_t c = from; c < to; ++c) sum[c] += widen(g[c]);
    }
  }
}

template <class Call>
void by_kind(int kind, const Call& call) {
  if (kind == 0) {
    call(float{});
  } else {
    call(bf16{});
  }
}

} // namespace

#define AS(type, pointer) static_cast<type>(pointer)

extern "C" {

void mb_set_sgemm(void* function) { sgemm_ = reinterpret_cast<Sgemm>(function); }

void mb_drop(int kind, const void* x, void* y, int64_t rows, int64_t columns, const int64_t* keys,
             uint64_t seed, uint32_t threshold, float scale) {
  by_kind(kind, [&](auto t) {
    using T = decltype(t);
    drop(AS(const T*, x), AS(T*, y), rows, columns, Mask{keys, seed, threshold, scale});
  });
}

void mb_gelu_forward(int kind, const void* x, const float* bias, void* y, int64_t rows,
                     int64_t columns) {
  by_kind(kind, [&](auto t) {
    using T = decltype(t);
    gelu_forward(AS(const T*, x), bias, AS(T*, y), rows, columns);
  });
}

void mb_gelu_backward(int kind, const void* grad, const void* x, const float* bias, void* grad_x,
                      float* grad_bias, int64_t rows, int64_t columns) {
  by_kind(kind, [&](auto t) {
    using T = decltype(t);
    gelu_backward(AS(const T*, grad), AS(const T*, x), bias, AS(T*, grad_x), grad_bias, rows,
                  columns);
  });
}

void mb_norm_forward(int kind, const void* x, const float* bias, const void* residual,
                     const float* weight, const float* norm_bias, float eps, const int64_t* keys,
                     uint64_t seed, uint32_t threshold, float scale, void* total, void* normed,
                     float* mean, float* rstd, int64_t rows, int64_t columns) {
  by_kind(kind, [&](auto t) {
    using T = decltype(t);
    norm_forward(AS(const T*, x), bias, AS(const T*, residual), weight, norm_bias, eps,
                 Mask{keys, seed, threshold, scale}, AS(T*, total), AS(T*, normed), mean, rstd, rows,
                 columns);
  });
}

void mb_norm_backward(int kind, const void* grad, const void* grad_total, const void* total,
                      const float* mean, const float* rstd, const float* weight,
                      const int64_t* keys, uint64_t seed, uint32_t threshold, float scale,
                      void* grad_residual, void* grad_x, float* sums, int64_t rows,
                      int64_t columns) {
  by_kind(kind, [&](auto t) {
    using T = decltype(t);
    norm_backward(AS(const T*, grad), AS(const T*, grad_total), AS(const T*, total), mean, rstd,
                  weight, Mask{keys, seed, threshold, scale}, AS(T*, grad_residual), AS(T*, grad_x),
                  sums, rows, columns);
  });
}

void mb_attention_forward(int kind, const void* q, const void* k, const void* v, int64_t ld,
                          void* out, float* lse, const int64_t* spans, int64_t sequences,
                          int64_t heads, int64_t width, int64_t tokens, int64_t max_length,
                          int64_t first_head, float score_scale, const int64_t* keys, uint64_t seed,
                          uint32_t threshold, float scale, const float* table, int64_t most) {
  by_kind(kind, [&](auto t) {
    using T = decltype(t);
    attend(AS(const T*, q), AS(const T*, k), AS(const T*, v), ld, AS(T*, out), lse,
           Shape{spans, sequences, heads, width, tokens, max_length}, first_head, score_scale,
           Mask{keys, seed, threshold, scale}, Relative{table, most});
  });
}

void mb_attention_backward(int kind, const void* grad, const void* q, const void* k, const void* v,
                           int64_t ld, const void* out, const float* lse, void* grad_q, void* grad_k,
                           void* grad_v, int64_t grad_ld, const int64_t* spans, int64_t sequences,
                           int64_t heads, int64_t width, int64_t tokens, int64_t max_length,
                           int64_t first_head, float score_scale, const int64_t* keys,
                           uint64_t seed, uint32_t threshold, float scale, const float* table,
                           int64_t most) {
  by_kind(kind, [&](auto t) {
    using T = decltype(t);
    attend_backward(AS(const T*, grad), AS(const T*, q), AS(const T*, k), AS(const T*, v), ld,
                    AS(const T*, out), lse, AS(T*, grad_q), AS(T*, grad_k), AS(T*, grad_v),
                    grad_ld, Shape{spans, sequences, heads, width, tokens, max_length}, first_head,
                    score_scale, Mask{keys, seed, threshold, scale}, Relative{table, most});
  });
}

void mb_loss_rows(int kind, const void* logits, const int64_t* labels, float* out, int64_t rows,
                  int64_t ld, int64_t first, int64_t real) {
  by_kind(kind, [&](auto t) {
    using T = decltype(t);
    summarize(AS(const T*, logits), labels, out, rows, ld, first, real);
  });
}

void mb_loss_gradient(int kind, void* logits, const int64_t* labels, const float* lse, int64_t rows,
                      int64_t ld, int64_t first, int64_t real) {
  by_kind(kind, [&](auto t) {
    using T = decltype(t);
    loss_gradient(AS(T*, logits), labels, lse, rows, ld, first, real);
  });
}

void mb_add_rows(int kind, const void* grad, const int64_t* ids, float* table, int64_t rows,
                 int64_t table_rows, int64_t columns, int64_t first) {
  by_kind(kind, [&](auto t) {
    using T = decltype(t);
    add_rows(AS(const T*, grad), ids, table, rows, table_rows, columns, first);
  });
}

} // extern "C"
