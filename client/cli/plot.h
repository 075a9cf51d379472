// The chart of a spectrum, as SVG or PNG. Private to the program.
#pragma once

#include <filesystem>
#include <string>

#include "common/spectrum/spectrum.h"
#include "common/status/status.h"

namespace holo::cli {

// Eigenvalues on a logarithmic axis and the variance captured at k, with both effective ranks marked.
[[nodiscard]] std::string PlotSvg(const spectrum::Spectrum& spectrum, const std::string& title);

// Writes .svg or .png by extension; kInvalidArgument for another one.
[[nodiscard]] Result<void> SavePlot(const std::filesystem::path& path, const spectrum::Spectrum& spectrum,
                                    const std::string& title);

}  // namespace holo::cli
