#!/usr/bin/env bash
# Installs the Debian packages that this project needs. Removes nothing; quick when everything is there.
#   deploy/setup.sh                what building and running needs
#   deploy/setup.sh --sanitizers   and clang, for the presets asan and fuzz
#   deploy/setup.sh --tests        and what some tests use where it is there: a virtual display, WebAssembly, Node, Python
#   deploy/setup.sh --benchmarks   and the programs that benchmarks compare with
#   deploy/setup.sh --lists        fetches apt's package lists, too
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

packages=(
  g++ cmake ninja-build ccache mold pkg-config
  libprotobuf-dev protobuf-compiler libgrpc++-dev protobuf-compiler-grpc libabsl-dev prometheus-cpp-dev
  libeigen3-dev libhwy-dev libopencv-dev qtbase5-dev libspdlog-dev nlohmann-json3-dev libcli11-dev libexpected-dev libssl-dev
  libtiff-dev libutf8proc-dev zlib1g-dev
  doctest-dev libbenchmark-dev
)
lists=
for option in "$@"; do
  case $option in
    --sanitizers) packages+=(clang lld libclang-rt-14-dev) ;;
    --tests)
      packages+=(python3 python3-venv xvfb xauth)
      # Node from elsewhere brings its own, which excludes Debian's.
      command -v npm >/dev/null || packages+=(npm)
      packages+=(clang-14 lld-14 wasi-libc libc++-14-dev-wasm32 libclang-rt-14-dev-wasm32 nodejs)
      ;;
    --lists) lists=yes ;;
    --benchmarks) packages+=(libjpeg-turbo-progs webp libopenjp2-tools libjxl-tools) ;;
    *)
      sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
      exit 2
      ;;
  esac
done

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
  echo "setup: expected a Debian 12 system with apt-get; elsewhere install the equivalents of: ${packages[*]}" >&2
  exit 1
fi

missing=()
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    # Nobody is there to type a password when there is no terminal.
    if [ -t 0 ]; then sudo "$@"; else sudo -n "$@"; fi
  else
    echo "setup: packages are missing, and there is neither root nor sudo. As root, run:" >&2
    echo "  apt-get update${missing[*]:+ && apt-get install --no-install-recommends ${missing[*]}}" >&2
    exit 1
  fi
}

updated=
update_lists() {
  [ -z "$updated" ] || return 0
  as_root apt-get -q -o Acquire::Retries=3 update
  updated=yes
}

[ -z "$lists" ] || update_lists

# Everything that is installed, of the wanted packages and of all versions of Boost's headers.
installed=$(dpkg-query --show --showformat='${db:Status-Status} ${Package}\n' "${packages[@]}" 'libboost*-dev' 2>/dev/null |
  sed -n 's/^installed //p' || true)

# Boost 1.81 (Asio and Beast; headers only). Its package excludes that of 1.74, Debian's default. Where another one is
# installed it stays, and the headers are unpacked where deploy/cmake/dependencies.cmake looks first.
boost_dir=build/boost-1.81
unpack_boost=
if grep -qx libboost1.81-dev <<<"$installed" || [ -e "$boost_dir/usr/include/boost/version.hpp" ]; then
  :
elif grep -q '^libboost.*-dev$' <<<"$installed"; then
  unpack_boost=yes
else
  packages+=(libboost1.81-dev)
fi

for package in "${packages[@]}"; do
  grep -qxF "$package" <<<"$installed" || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  echo "setup: installing ${missing[*]}" >&2
  update_lists
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 \
    install --no-remove --no-install-recommends "${missing[@]}" </dev/null
fi

if [ -n "$unpack_boost" ]; then
  echo "setup: another Boost is installed and stays; unpacking the headers of 1.81 into $boost_dir" >&2
  mkdir -p build
  scratch=$(mktemp -d "$PWD/build/boost.XXXXXX")
  trap 'rm -rf "$scratch"' EXIT
  missing=()
  download() { (cd "$scratch" && apt-get -q -o Acquire::Retries=3 -o APT::Sandbox::User=root download libboost1.81-dev); }
  download 2>/dev/null || { update_lists && download; }
  dpkg-deb -x "$scratch"/libboost1.81-dev_*.deb "$scratch/unpacked"
  rm -rf "$boost_dir"
  mv "$scratch/unpacked" "$boost_dir"
fi
