# frozen_string_literal: true

# What a span costs in Ruby: ours, the least that any span has to do, and OpenTelemetry's if its gem is there, in one process.
#
#     ruby ffi/ruby/bench.rb [ROUNDS] [--json]
#
# Rounds are interleaved, each has fresh loops of each kind; shown are medians of the thread's own CPU time, less an empty loop's.
require "json"
require "tmpdir"
require "spanring"
require "spanring/raaf"

rounds = (ARGV.find { |argument| argument.match?(/\A\d+\z/) } || 101).to_i
COUNT = 2000

# The least that any span has to do: what is current is set, and put back however the block ends.
def only_current
  before = Thread.current[:bench]
  Thread.current[:bench] = 1
  yield
ensure
  Thread.current[:bench] = before
end

class Traced
  include Spanring::Traceable
  trace_as :agent
end
TRACED = Traced.new

CASES = {
  "an empty block" => -> { i = 0; while i < COUNT do 1.then { |s| }; i += 1 end },
  "a fiber-local set and reset" => -> { i = 0; while i < COUNT do only_current { |s| }; i += 1 end },
  "spanring, bare" => -> { i = 0; while i < COUNT do Spanring.span("db.query") { |s| }; i += 1 end },
  "spanring, bare, a child" => lambda do
    Spanring.span("parent") { i = 0; while i < COUNT do Spanring.span("db.query") { |s| }; i += 1 end }
  end,
  "spanring, 4 attributes" => lambda do
    i = 0
    while i < COUNT do
      Spanring.span("db.query", system: "postgresql", rows: 7, cached: true, cost: 1.5) { |s| }
      i += 1
    end
  end,
  "spanring, with_tracing" => -> { i = 0; while i < COUNT do TRACED.with_tracing(:run) { |s| }; i += 1 end },
  "spanring, start_span and finish" => -> { i = 0; while i < COUNT do Spanring.start_span("db.query").finish; i += 1 end },
}

# A span as RAAF's Traceable hands it over; each time it is another one, and all are older than those that the processor still knows.
class BenchSpan
  IDS = Array.new(20_000) { |number| format("span_%032x", (number + 1) << 64 | number) }.freeze
  attr_reader :trace_id, :parent_id, :name, :kind, :start_time, :end_time, :attributes, :events, :status

  def initialize(kind, attributes)
    @kind = kind
    @attributes = attributes
    @name = "run.workflow.#{kind}.Assistant"
    @trace_id = "trace_#{"a" * 32}"
    @parent_id = "span_#{"b" * 32}"
    @start_time = Time.now.utc
    @end_time = Time.now.utc
    @events = []
    @status = :ok
    @next = 0
  end

  def span_id
    @next = @next == IDS.size - 1 ? 0 : @next + 1
    IDS[@next]
  end
end

AGENT = { "component.type" => "agent", "component.name" => "RAAF::Agent", "agent.name" => "Assistant", "agent.model" => "gpt-4o", "agent.max_turns" => "3",
          "agent.tools_count" => "3", "agent.handoffs_count" => "0", "agent.system_instructions" => "You are a helpful assistant. " * 8,
          "result.type" => "RAAF::RunResult", "result.success" => true, "duration_ms" => 1.5, "success" => true }.freeze
LLM = { "llm.request.model" => "gpt-4o", "llm.request.messages" => Array.new(4) { |number| { role: "user", content: "message #{number} " * 30 } },
        "llm.response.content" => "An answer. " * 30, "llm.usage.input_tokens" => 1250, "llm.usage.output_tokens" => 342 }.freeze
{ "bare" => [:custom, {}], "an agent, 12 attributes" => [:agent, AGENT], "an LLM call, 1.6 kB" => [:llm, LLM] }.each do |what, (kind, attributes)|
  span = BenchSpan.new(kind, attributes)
  CASES["RAAF's processor, #{what}"] = -> { i = 0; while i < COUNT do PROCESSOR.on_span_end(span); i += 1 end }
end

begin
  require "opentelemetry/sdk"
  nowhere = Class.new do
    def export(_spans, timeout: nil) = 0
    def force_flush(timeout: nil) = 0
    def shutdown(timeout: nil) = 0
  end
  provider = OpenTelemetry::SDK::Trace::TracerProvider.new
  provider.add_span_processor(OpenTelemetry::SDK::Trace::Export::BatchSpanProcessor.new(nowhere.new))
  tracer = provider.tracer("bench")
  CASES["opentelemetry, bare"] = -> { i = 0; while i < COUNT do tracer.in_span("db.query") { |s| }; i += 1 end }
  CASES["opentelemetry, 4 attributes"] = lambda do
    i = 0
    while i < COUNT do
      tracer.in_span("db.query", attributes: { "system" => "postgresql", "rows" => 7, "cached" => true, "cost" => 1.5 }) { |s| }
      i += 1
    end
  end
rescue LoadError
  warn "without the gem opentelemetry-sdk"
end

def thread_time = Process.clock_gettime(Process::CLOCK_THREAD_CPUTIME_ID, :nanosecond)

def objects(body)
  before = GC.stat(:total_allocated_objects)
  body.call
  (GC.stat(:total_allocated_objects) - before).fdiv(COUNT).round(2)
end

loop_alone = -> { i = 0; while i < COUNT do i += 1 end }
found = CASES.transform_values { [] }
empty = []
stats = allocated = nil
Dir.mktmpdir do |place|
  Spanring.start(dir: place, max_spans: 1_000_000, max_bytes: "1GiB", log_level: :error, ignore_environment: true)
  PROCESSOR = Spanring::RAAF::Processor.new
  (rounds + 1).times do |round|
    [[nil, loop_alone], *CASES].each do |name, body|
      begin_at = thread_time
      body.call
      took = (thread_time - begin_at).fdiv(COUNT)
      # What follows is not to pay for what went before.
      Spanring.flush(30)
      (name ? found[name] : empty) << took if round > 0
    end
  end
  allocated = CASES.transform_values { |body| objects(body) }
  stats = Spanring.stats
  Spanring.shutdown(30)
end
median = ->(times) { times.sort[times.size / 2] }
result = CASES.keys.to_h { |name| [name, { "ns" => (median.(found[name]) - median.(empty)).round, "objects" => allocated[name] }] }
if ARGV.include?("--json")
  puts JSON.generate("ruby" => RUBY_VERSION, "rounds" => rounds, "cases" => result, "dropped" => stats["dropped"].values.sum)
else
  puts "Ruby #{RUBY_VERSION}, #{rounds} rounds, medians; #{stats["created"]} spans, #{stats["dropped"].values.sum} dropped"
  result.each { |name, of| puts format("%-32s %8d ns %6.2f objects", name, of["ns"], of["objects"]) }
end
