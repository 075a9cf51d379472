// Readers of matrix files. NumPy's format: numpy/lib/format.py (NEP 1).
#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>
#include <optional>
#include <string>

#include "common/bytes/bytes.h"
#include "common/files/files.h"
#include "common/spectrum/spectrum.h"

namespace holo::spectrum {
namespace {

tl::unexpected<Error> Invalid(std::string_view name, const std::string& problem) {
  return Fail(Code::kInvalidArgument, std::string(name) + ": " + problem);
}

// The text after `'key':` in the header's dictionary, without leading spaces.
Result<std::string_view> FindKey(std::string_view header, const std::string& key, std::string_view name) {
  const std::size_t at = header.find("'" + key + "':");
  if (at == std::string_view::npos) return Invalid(name, "expected '" + key + "' in the NumPy header");
  std::string_view rest = header.substr(at + key.size() + 3);
  rest.remove_prefix(std::min(rest.find_first_not_of(' '), rest.size()));
  return rest;
}

Result<std::vector<std::uint64_t>> ParseShape(std::string_view text, std::string_view name) {
  const std::size_t close = text.find(')');
  if (!text.starts_with('(') || close == std::string_view::npos)
    return Invalid(name, "expected a shape in parentheses");
  text = text.substr(1, close - 1);
  std::vector<std::uint64_t> shape;
  while (true) {
    text.remove_prefix(std::min(text.find_first_not_of(" ,"), text.size()));
    if (text.empty()) break;
    std::uint64_t value = 0;
    const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (problem != std::errc()) return Invalid(name, "expected whole numbers in the shape");
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    shape.push_back(value);
  }
  if (shape.size() < 2 || shape.size() > 8) {
    return Invalid(name, "expected an array of 2 dimensions or more, found " + std::to_string(shape.size()));
  }
  return shape;
}

// IEEE 754 half precision.
double HalfToDouble(std::uint16_t bits) {
  const int exponent = bits >> 10 & 31;
  const int mantissa = bits & 1023;
  double value = 0;
  if (exponent == 31) {
    value = mantissa == 0 ? INFINITY : NAN;
  } else {
    value = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(mantissa + 1024, exponent - 25);
  }
  return (bits & 0x8000) != 0 ? -value : value;
}

double Element(std::span<const std::uint8_t> raw, bool swap, char kind) {
  std::uint64_t bits = 0;
  for (std::size_t i = 0; i < raw.size(); ++i) {
    bits |= std::uint64_t{raw[swap ? raw.size() - 1 - i : i]} << (8 * i);
  }
  if (kind == 'f') {
    if (raw.size() == 2) return HalfToDouble(static_cast<std::uint16_t>(bits));
    if (raw.size() == 4) return std::bit_cast<float>(static_cast<std::uint32_t>(bits));
    return std::bit_cast<double>(bits);
  }
  if (kind != 'i') return static_cast<double>(bits);
  const unsigned unused = 64 - 8 * static_cast<unsigned>(raw.size());
  return static_cast<double>(static_cast<std::int64_t>(bits << unused) >> unused);
}

Result<float> ToFinite(double value, std::string_view name, std::uint64_t index) {
  const auto narrowed = static_cast<float>(value);
  if (!std::isfinite(narrowed)) {
    return Invalid(
        name, "expected finite numbers, found NaN, infinity or more than 3.4e38 as element " + std::to_string(index));
  }
  return narrowed;
}

// The numbers of one line; nothing if something in it is no number.
std::optional<std::vector<float>> ParseLine(std::string_view line) {
  constexpr std::string_view kSeparators = ",; \t";
  std::vector<float> values;
  while (true) {
    line.remove_prefix(std::min(line.find_first_not_of(kSeparators), line.size()));
    if (line.empty()) return values;
    const std::string_view token = line.substr(0, line.find_first_of(kSeparators));
    const std::size_t sign = token.starts_with('+') ? 1 : 0;
    double value = 0;
    const auto [end, problem] = std::from_chars(token.data() + sign, token.data() + token.size(), value);
    const auto narrowed = static_cast<float>(value);
    if (problem != std::errc() || end != token.data() + token.size() || !std::isfinite(narrowed)) return std::nullopt;
    values.push_back(narrowed);
    line.remove_prefix(token.size());
  }
}

}  // namespace

Result<Matrix> ParseNpy(std::span<const std::uint8_t> bytes, std::string_view name) {
  bytes::ByteReader reader(bytes, name);
  HOLO_ASSIGN_OR_RETURN(const auto magic, reader.ReadSpan(6));
  if (std::memcmp(magic.data(), "\x93NUMPY", 6) != 0)
    return Invalid(name, "expected a NumPy file, found something else");
  HOLO_ASSIGN_OR_RETURN(const std::uint8_t version, reader.ReadU8());
  HOLO_RETURN_IF_ERROR(reader.ReadU8());
  if (version < 1 || version > 3)
    return Invalid(name, "expected NumPy format 1 to 3, found " + std::to_string(version));
  std::uint32_t header_bytes = 0;
  if (version == 1) {
    HOLO_ASSIGN_OR_RETURN(header_bytes, reader.ReadU16());
  } else {
    HOLO_ASSIGN_OR_RETURN(header_bytes, reader.ReadU32());
  }
  HOLO_ASSIGN_OR_RETURN(const auto header_span, reader.ReadSpan(header_bytes));
  const std::string header(header_span.begin(), header_span.end());

  HOLO_ASSIGN_OR_RETURN(const std::string_view type, FindKey(header, "descr", name));
  HOLO_ASSIGN_OR_RETURN(const std::string_view order, FindKey(header, "fortran_order", name));
  HOLO_ASSIGN_OR_RETURN(const std::string_view shape_text, FindKey(header, "shape", name));
  HOLO_ASSIGN_OR_RETURN(const std::vector<std::uint64_t> shape, ParseShape(shape_text, name));
  // For example '<f4'.
  const bool is_type = type.size() >= 5 && type[0] == '\'' && type[4] == '\'' &&
                       std::string_view("<>|=").find(type[1]) != std::string_view::npos;
  const char kind = is_type ? type[2] : '?';
  const std::size_t element_bytes =
      is_type && type[3] >= '1' && type[3] <= '8' ? static_cast<std::size_t>(type[3] - '0') : 0;
  const bool is_integer = (kind == 'i' || kind == 'u') && std::has_single_bit(element_bytes);
  const bool is_float = kind == 'f' && (element_bytes == 2 || element_bytes == 4 || element_bytes == 8);
  const bool is_bool = kind == 'b' && element_bytes == 1;
  if (!is_integer && !is_float && !is_bool) {
    return Invalid(name, "expected numbers of 1 to 8 bytes, found NumPy type " + std::string(type.substr(0, 8)));
  }

  Matrix matrix;
  matrix.columns = shape.back();
  matrix.rows = 1;
  const std::uint64_t available = reader.remaining() / element_bytes;
  for (std::size_t i = 0; i + 1 < shape.size(); ++i) {
    if (shape[i] == 0 || matrix.rows > available / shape[i]) matrix.rows = 0;
    matrix.rows *= shape[i];
  }
  if (matrix.rows == 0 || matrix.columns == 0 || matrix.columns > available / matrix.rows) {
    return Fail(Code::kDataLoss,
                std::string(name) + ": expected as many numbers as its shape says, found " + std::to_string(available));
  }
  const bool column_major = order.starts_with("True");
  if (column_major && shape.size() > 2) {
    return Invalid(name, "expected row-major order in an array of " + std::to_string(shape.size()) + " dimensions");
  }
  const std::uint64_t count = matrix.rows * matrix.columns;
  HOLO_ASSIGN_OR_RETURN(const auto data, reader.ReadSpan(count * element_bytes));
  HOLO_RETURN_IF_ERROR(reader.ExpectEnd());
  matrix.values.resize(count);
  for (std::uint64_t i = 0; i < count; ++i) {
    const double value = Element(data.subspan(i * element_bytes, element_bytes), type[1] == '>', kind);
    const std::uint64_t at = column_major ? i % matrix.rows * matrix.columns + i / matrix.rows : i;
    HOLO_ASSIGN_OR_RETURN(matrix.values[at], ToFinite(value, name, i));
  }
  return matrix;
}

Result<Matrix> ParseCsv(std::span<const std::uint8_t> bytes, std::string_view name) {
  std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  Matrix matrix;
  bool heading_possible = true;
  for (std::uint64_t line_number = 1; !text.empty(); ++line_number) {
    const std::size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    line = line.substr(0, line.find('#'));
    while (line.ends_with('\r') || line.ends_with(' ')) line.remove_suffix(1);
    if (line.empty()) continue;
    const auto values = ParseLine(line);
    const bool is_heading = !values && heading_possible;
    heading_possible = false;
    if (is_heading) continue;
    if (!values) return Invalid(name, "line " + std::to_string(line_number) + ": expected finite numbers");
    if (matrix.rows == 0) matrix.columns = values->size();
    if (values->size() != matrix.columns) {
      return Invalid(name, "line " + std::to_string(line_number) + ": expected " + std::to_string(matrix.columns) +
                               " numbers, found " + std::to_string(values->size()));
    }
    matrix.values.insert(matrix.values.end(), values->begin(), values->end());
    ++matrix.rows;
  }
  if (matrix.rows == 0) return Invalid(name, "expected lines of numbers, found none");
  return matrix;
}

bool IsMatrixName(const std::filesystem::path& path) {
  const std::string extension = path.extension().string();
  return extension == ".npy" || extension == ".csv" || extension == ".tsv" || extension == ".txt";
}

Result<Matrix> LoadMatrix(const std::filesystem::path& path) {
  HOLO_ASSIGN_OR_RETURN(const std::vector<std::uint8_t> bytes, files::ReadFile(path));
  return path.extension() == ".npy" ? ParseNpy(bytes, path.string()) : ParseCsv(bytes, path.string());
}

}  // namespace holo::spectrum
