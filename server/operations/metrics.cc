#include "server/operations/metrics.h"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <fstream>
#include <limits>
#include <span>
#include <vector>

namespace holo::operations {
namespace {

void Add(std::vector<prometheus::MetricFamily>& families, const char* name, const char* help,
         prometheus::MetricType type, double value) {
  prometheus::MetricFamily family;
  family.name = name;
  family.help = help;
  family.type = type;
  prometheus::ClientMetric metric;
  metric.gauge.value = value;
  metric.counter.value = value;
  family.metric.push_back(std::move(metric));
  families.push_back(std::move(family));
}

void Add(std::vector<prometheus::MetricFamily>& families, const char* name, const char* help,
         const completion::Histogram::Snapshot& value) {
  prometheus::MetricFamily family;
  family.name = name;
  family.help = help;
  family.type = prometheus::MetricType::Histogram;
  prometheus::ClientMetric metric;
  for (std::size_t i = 0; i < value.cumulative.size(); ++i) {
    prometheus::ClientMetric::Bucket bucket;
    bucket.cumulative_count = value.cumulative[i];
    bucket.upper_bound = i < value.bounds.size() ? value.bounds[i] : std::numeric_limits<double>::infinity();
    metric.histogram.bucket.push_back(bucket);
  }
  metric.histogram.sample_count = value.cumulative.empty() ? 0 : value.cumulative.back();
  metric.histogram.sample_sum = value.sum;
  family.metric.push_back(std::move(metric));
  families.push_back(std::move(family));
}

void Add(std::vector<prometheus::MetricFamily>& families, std::span<const completion::Statistics::Memory> memories) {
  prometheus::MetricFamily family;
  family.name = "holo_text_bytes_per_token";
  family.help = "What a model remembers of a token, while it is in use";
  family.type = prometheus::MetricType::Gauge;
  for (const completion::Statistics::Memory& memory : memories) {
    prometheus::ClientMetric metric;
    metric.label = {{"model", memory.model}, {"memory", memory.method}};
    metric.gauge.value = memory.bytes_per_token;
    family.metric.push_back(std::move(metric));
  }
  families.push_back(std::move(family));
}

// Resident set of this process, 0 where /proc is missing.
double ResidentBytes() {
  std::ifstream file("/proc/self/statm");
  double pages = 0;
  double resident = 0;
  file >> pages >> resident;
  return resident * 4096;
}

}  // namespace

std::string MetricsText(const assets::Statistics& store, const streaming::Statistics& streams,
                        const transports::http::Statistics& http, const completion::Statistics* texts) {
  using prometheus::MetricType;
  struct Row {
    const char* name;
    const char* help;
    MetricType type;
    std::uint64_t value;
  };
  const Row rows[] = {
      {"holo_assets", "Assets in the store", MetricType::Gauge, store.entries},
      {"holo_assets_open", "Assets kept open in memory", MetricType::Gauge, store.open_assets},
      {"holo_assets_open_bytes", "Memory of open assets", MetricType::Gauge, store.open_bytes},
      {"holo_asset_cache_hits_total", "Assets asked for that were open", MetricType::Counter, store.hits},
      {"holo_asset_cache_misses_total", "Assets asked for that had to be opened", MetricType::Counter, store.misses},
      {"holo_asset_cache_evictions_total", "Open assets dropped for memory", MetricType::Counter, store.evictions},
      {"holo_assets_damaged", "Files that are known to be damaged", MetricType::Gauge, store.damaged},
      {"holo_pictures_compressed_total", "Pictures compressed on first use", MetricType::Counter, store.compressed},
      {"holo_picture_failures_total", "Pictures that could not be compressed", MetricType::Counter,
       store.compress_failures},
      {"holo_streams", "Streams now", MetricType::Gauge, streams.streams},
      {"holo_streams_total", "Streams ever", MetricType::Counter, streams.streams_total},
      {"holo_streams_refused_total", "Streams refused above the limit or while stopping", MetricType::Counter,
       streams.refused},
      {"holo_streams_failed_total", "Streams that ended with an error", MetricType::Counter, streams.failed},
      {"holo_streams_stalled_total", "Streams dropped because the client took nothing", MetricType::Counter,
       streams.stalled},
      {"holo_messages_received_total", "Client messages", MetricType::Counter, streams.messages_in},
      {"holo_messages_sent_total", "Server messages", MetricType::Counter, streams.messages_out},
      {"holo_stream_payload_bytes_total", "Chunk and basis bytes sent", MetricType::Counter, streams.payload_bytes},
      {"holo_stream_unacknowledged_bytes", "Bytes sent and not yet acknowledged", MetricType::Gauge,
       streams.unacknowledged_bytes},
      {"holo_views_completed_total", "Views sent to their end", MetricType::Counter, streams.views_completed},
      {"holo_http_connections", "HTTP and WebSocket connections now", MetricType::Gauge, http.connections},
      {"holo_http_requests_total", "HTTP requests", MetricType::Counter, http.requests},
      {"holo_http_file_bytes_total", "Bytes of files sent over HTTP", MetricType::Counter, http.file_bytes},
  };
  std::vector<prometheus::MetricFamily> families;
  for (const Row& row : rows) Add(families, row.name, row.help, row.type, static_cast<double>(row.value));
  if (texts != nullptr) {
    const Row text_rows[] = {
        {"holo_text_requests_total", "Requests for text that were accepted", MetricType::Counter, texts->requests},
        {"holo_text_refused_total", "Requests refused for a full queue or while stopping", MetricType::Counter,
         texts->refused},
        {"holo_text_cancelled_total", "Requests ended by their clients, deadlines or a shutdown", MetricType::Counter,
         texts->cancelled},
        {"holo_text_failed_total", "Requests that failed here", MetricType::Counter, texts->failed},
        {"holo_text_prompt_tokens_total", "Tokens of prompts that were run", MetricType::Counter, texts->prompt_tokens},
        {"holo_text_cached_tokens_total", "Tokens of prompts that need not be run", MetricType::Counter,
         texts->cached_tokens},
        {"holo_text_prefix_bytes", "Kept of texts that have ended", MetricType::Gauge, texts->prefix_bytes},
        {"holo_text_prefix_packed_bytes", "Of these, blocks that are entropy-coded", MetricType::Gauge,
         texts->prefix_packed_bytes},
        {"holo_text_prefix_restored_total", "Entropy-coded blocks that a prompt began with", MetricType::Counter,
         texts->prefix_restored},
        {"holo_text_prefix_evictions_total", "Blocks of ended texts that were given up for memory", MetricType::Counter,
         texts->prefix_evictions},
        {"holo_text_restored_tokens_total", "Tokens of sessions that came from their parked memory",
         MetricType::Counter, texts->restored_tokens},
        {"holo_text_sessions", "Sessions in memory", MetricType::Gauge, texts->sessions.sessions},
        {"holo_text_parked_bytes", "What models remember of sessions that rest", MetricType::Gauge,
         texts->sessions.parked_bytes},
        {"holo_text_generated_tokens_total", "Tokens written", MetricType::Counter, texts->generated_tokens},
        {"holo_text_steps_total", "Calls of a model", MetricType::Counter, texts->steps},
        {"holo_text_running", "Texts that are being written", MetricType::Gauge, texts->now.running},
        {"holo_text_preempted", "Texts that wait, packed, for those of other clients", MetricType::Gauge,
         texts->now.parked},
        {"holo_text_preempted_bytes", "What they take, packed", MetricType::Gauge, texts->now.parked_bytes},
        {"holo_text_preemptions_total", "Texts that made room for those of another client", MetricType::Counter,
         texts->preemptions},
        {"holo_text_queued", "Requests that wait", MetricType::Gauge, texts->now.queued},
        {"holo_text_memory_bytes", "What models may remember of texts that are being written", MetricType::Gauge,
         texts->now.memory_bytes},
        {"holo_text_memory_limit_bytes", "The most that they may remember", MetricType::Gauge,
         texts->memory_limit_bytes},
    };
    for (const Row& row : text_rows) Add(families, row.name, row.help, row.type, static_cast<double>(row.value));
    Add(families, texts->memories);
    Add(families, "holo_text_first_token_seconds", "From a request to its first token", texts->first_token_seconds);
    Add(families, "holo_text_token_seconds", "Between two tokens of a text", texts->token_seconds);
    Add(families, "holo_text_queue_seconds", "From a request to its first step", texts->queue_seconds);
    Add(families, "holo_text_batch_size", "Texts in one call of a model", texts->batch_size);
  }
  Add(families, "process_resident_memory_bytes", "Resident memory of this process", MetricType::Gauge, ResidentBytes());
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace holo::operations
