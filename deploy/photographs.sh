#!/usr/bin/env bash
# Puts photographs for the demonstration into build/photographs and prints that folder: 13 photographs of 1.5 to 16
# megapixels from Debian's package lomiri-wallpapers-16.04 (16 MB), unpacked, not installed. Their authors and licences
# (CC BY 4.0, CC BY-SA 4.0, CC0 1.0) are in the file "copyright" beside them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=build/photographs
package=lomiri-wallpapers-16.04
if [ ! -e "$folder/copyright" ]; then
  mkdir -p build
  scratch=$(mktemp -d "$PWD/build/photographs.XXXXXX")
  trap 'rm -rf "$scratch"' EXIT
  echo "run: getting photographs from Debian's package $package" >&2
  download() { (cd "$scratch" && apt-get -q -o Acquire::Retries=3 -o APT::Sandbox::User=root download "$package" >&2); }
  if ! download 2>/dev/null; then
    deploy/setup.sh --lists
    download
  fi
  dpkg-deb -x "$scratch/$package"_*.deb "$scratch/unpacked"
  mkdir "$scratch/photographs"
  mv "$scratch"/unpacked/usr/share/backgrounds/*.jpg "$scratch/photographs/"
  # These two are graphics.
  rm -f "$scratch"/photographs/{umang_by_Abhishek_Mudgal,analogpattern_by_Peter_Nerlich}.jpg
  mv "$scratch/unpacked/usr/share/doc/$package/copyright" "$scratch/photographs/"
  rm -rf "$folder"
  mv "$scratch/photographs" "$folder"
fi
echo "$folder"
