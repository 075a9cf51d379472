// What /metrics says. Private to operations/.
#pragma once

#include <string>

#include "server/assets/assets.h"
#include "server/completion/completion.h"
#include "server/streaming/streaming.h"
#include "server/transports/http/http.h"

namespace holo::operations {

// Prometheus text format 0.0.4. `texts` may be null: no models are served.
[[nodiscard]] std::string MetricsText(const assets::Statistics& store, const streaming::Statistics& streams,
                                      const transports::http::Statistics& http,
                                      const completion::Statistics* texts = nullptr);

}  // namespace holo::operations
