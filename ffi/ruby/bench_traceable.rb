# frozen_string_literal: true

# What `with_tracing` costs: of Spanring::Traceable beside Spanring.span, and of RAAF before and after Spanring::RAAF.install!.
#
#     ruby ffi/ruby/bench_traceable.rb [ROUNDS]
#
# RAAF_LIB is RAAF's tracing, a file to require; without it, its part is left out. Since install! cannot be undone, each round forks one
# process for each way, in turn. Shown are medians over rounds of the thread's own CPU time, less an empty loop's.
require "tmpdir"
require "spanring"

ROUNDS = (ARGV.first || 15).to_i
COUNT = 2000

class Bare
  include Spanring::Traceable
  trace_as :agent
end

class Hooked < Bare
  def collect_span_attributes = { "gen_ai.request.model" => "gpt-4o" }
  def collect_result_attributes(result) = { "output.value" => result }
end

BARE, HOOKED = Bare.new, Hooked.new
OURS = {
  "Spanring.span" => -> { Spanring.span("db.query") {} },
  "Spanring.span, 4 attributes" => -> { Spanring.span("db.query", system: "postgresql", rows: 7, cached: true, cost: 1.5) {} },
  "Traceable" => -> { BARE.with_tracing(:run) {} },
  "Traceable, an attribute" => -> { BARE.with_tracing(:run, customer: 7) {} },
  "Traceable, both hooks and an attribute" => -> { HOOKED.with_tracing(:run, customer: 7) { "an answer" } },
}.freeze

THEIRS = {}
if ENV["RAAF_LIB"]
  require ENV["RAAF_LIB"]
  require "spanring/raaf"

  class Nothing
    def on_span_end(_span) = nil
  end

  class Default
    include RAAF::Tracing::Traceable
    trace_as :agent
  end

  class Own < Default
    def collect_span_attributes = { "agent.name" => "Support", "agent.model" => "gpt-4o" }
    def collect_result_attributes(_result) = { "result.type" => "String" }
  end

  class Extended < Default
    def collect_span_attributes = super.merge("agent.name" => "Support", "agent.model" => "gpt-4o")
  end

  RAAF::Tracing.set_trace_processors(Nothing.new)
  default, own, extended = Default.new, Own.new, Extended.new
  tracer = RAAF::Tracing::SpanTracer.new(RAAF::Tracing::TraceProvider.instance)
  THEIRS.merge!(
    "RAAF's own hooks" => -> { default.with_tracing(:run) {} },
    "the host's hooks" => -> { own.with_tracing(:run) {} },
    "the host's hooks, which call RAAF's" => -> { extended.with_tracing(:run) {} },
    "its tracer, #{7 * COUNT} spans and more" => -> { tracer.span("query") {} }
  )
end

def thread_time = Process.clock_gettime(Process::CLOCK_THREAD_CPUTIME_ID, :nanosecond)

def nanoseconds(body)
  begin_at = thread_time
  i = 0
  while i < COUNT
    body.call
    i += 1
  end
  (thread_time - begin_at).fdiv(COUNT)
end

def objects(body)
  before = GC.stat(:total_allocated_objects)
  COUNT.times { body.call }
  (GC.stat(:total_allocated_objects) - before).fdiv(COUNT).round(1)
end

# The last of several times, when all is warm.
def measure(cases)
  empty = nanoseconds(-> {})
  cases.transform_values do |body|
    times = Array.new(8) { nanoseconds(body) }
    Spanring.flush(30)
    [times.last - empty, objects(body)]
  end
end

# Runs a block in a process of its own and gives what it gives.
def apart
  output, input = IO.pipe
  pid = fork do
    output.close
    Dir.mktmpdir do |place|
      settings = { dir: place, max_spans: 1_000_000, max_bytes: "1GiB", log_level: :error, ignore_environment: true }
      input.write(Marshal.dump(yield(settings)))
    end
    input.close
    exit!(0)
  end
  input.close
  Marshal.load(output.read)
ensure
  Process.wait(pid)
end

found = { ours: [], without: [], with: [] }
ROUNDS.times do
  found[:ours] << apart { |settings| Spanring.start(**settings); measure(OURS) }
  next if THEIRS.empty?

  found[:without] << apart { measure(THEIRS) }
  found[:with] << apart { |settings| Spanring::RAAF.install!(**settings); measure(THEIRS) }
end
median = ->(which, name, at) { found[which].map { |round| round[name][at] }.sort[found[which].size / 2] }
puts "Ruby #{RUBY_VERSION}, #{ROUNDS} rounds, medians"
span = median.(:ours, "Spanring.span", 0)
OURS.each_key do |name|
  nanos = median.(:ours, name, 0)
  puts format("%-40s %8d ns %6.1f objects %6.1f of Spanring.span", name, nanos, median.(:ours, name, 1), nanos / span)
end
puts "without RAAF, which RAAF_LIB would name" if THEIRS.empty?
THEIRS.each_key do |name|
  without, with = median.(:without, name, 0), median.(:with, name, 0)
  puts format("%-40s %8d ns %6.1f objects; installed %6d ns %5.1f objects: %5.1f times as cheap",
              name, without, median.(:without, name, 1), with, median.(:with, name, 1), without / with)
end
