# frozen_string_literal: true

# A program on RAAF, set up as its performance guide says: settings by ENV and by RAAF::Tracing.configure, processors for production, a health
# check. Spanring's part are the two lines with a mark. RAAF_LIB is RAAF, or what stands in for it; RUNS is how many questions are asked.
require ENV.fetch("RAAF_LIB")
require "spanring/raaf" # spanring
require "json"

ENV["RAAF_TRACE_BATCH_SIZE"] = "100"
ENV["RAAF_TRACE_FLUSH_INTERVAL"] = "10"
ENV["RAAF_TRACE_MAX_SPANS"] = "5000"
ENV["RAAF_TRACE_CLEANUP_INTERVAL"] = "300"
ENV["RAAF_LOG_LEVEL"] = "warn"

RAAF::Tracing.configure do |config|
  config.max_spans_in_memory = 1000
  config.cleanup_interval = 60
end

class Metrics
  attr_reader :count, :milliseconds, :kinds

  def initialize
    @count, @milliseconds, @kinds = 0, 0.0, Hash.new(0)
    @lock = Mutex.new
  end

  def on_span_end(span)
    @lock.synchronize do
      @count += 1
      @milliseconds += span.attributes["duration_ms"]
      @kinds[span.kind] += 1
    end
  end
end

class ErrorTracking
  attr_reader :errors

  def initialize = @errors = Thread::Queue.new

  def on_span_end(span)
    @errors << span.name if span.status == :error
  end
end

METRICS, TRACKED = Metrics.new, ErrorTracking.new
RAAF::Tracing.set_trace_processors(METRICS, TRACKED)
Spanring::RAAF.install! # spanring

class SearchTool
  include RAAF::Tracing::Traceable
  trace_as :tool

  def initialize(agent) = @parent_component = agent

  def call(query)
    with_tracing(:call, "tool.arguments" => { query: query }) do
      raise IOError, "the index is gone" if query.include?("index")

      "three pages about #{query}"
    end
  end

  def collect_span_attributes = super.merge("tool.name" => "search")
  def collect_result_attributes(found) = super.merge("tool.result" => found)
end

class Model
  include RAAF::Tracing::Traceable
  trace_as :llm

  def initialize(agent) = @parent_component = agent

  def complete(prompt)
    with_tracing(:complete, "llm.request.model" => "gpt-4o", "llm.request.messages" => [{ role: "user", content: prompt }]) do
      "Nothing is known of #{prompt}."
    end
  end

  def collect_result_attributes(text)
    super.merge("llm.response.content" => text, "llm.usage" => { "input_tokens" => 120, "output_tokens" => text.size, "total_tokens" => 120 + text.size })
  end
end

class SupportAgent
  include RAAF::Tracing::Traceable
  trace_as :agent

  def run(question)
    with_tracing(:run, "agent.input" => question) do
      found = [SearchTool.new(self).call(question), (SearchTool.new(self).call("the index") rescue "nothing")]
      Model.new(self).complete("#{question}, given #{found.join(" and ")}")
    end
  end

  def collect_span_attributes = super.merge("agent.name" => "Support", "agent.model" => "gpt-4o", "agent.tool_count" => 1)
  def collect_result_attributes(answer) = super.merge("agent.output" => answer)
end

def health
  {
    tracing_enabled: !RAAF::Tracing.disabled?, processors: RAAF::Tracing::TraceProvider.instance.processors.size, spans: METRICS.count,
    errors: TRACKED.errors.size, kinds: METRICS.kinds, dropped: Spanring.stats.fetch("dropped").values.sum
  }
end

workers = Array.new(4) do |number|
  Thread.new do
    (Integer(ENV.fetch("RUNS", "4")) / 4).times do |round|
      RAAF::Tracing.trace("Support", group_id: "conversation #{number}", metadata: { round: round }) do
        SupportAgent.new.run("question #{number}.#{round}")
      end
    end
  end
end
workers.each(&:join)
puts JSON.generate(health)
