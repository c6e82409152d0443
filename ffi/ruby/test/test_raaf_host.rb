# frozen_string_literal: true

# What the host keeps after Spanring::RAAF.install!, whatever recording does: its values, its errors, its interrupts, its secrets.
require_relative "helper"
require_relative "raaf_stand_in"
require "spanring/raaf"

class TestRAAFHost < Case
  Tracing = RAAF::Tracing

  class Worker
    include Tracing::Traceable
  end

  # Makes its text while the other thread does what it has to.
  class Waits
    def initialize(entered) = @entered = entered

    def to_s
      @entered << 1 unless @entered.closed?
      Thread.pass until @entered.closed?
      "waited"
    end
    alias to_json to_s
  end

  class Stop < StandardError; end

  def setup
    super
    start
    Tracing::TraceProvider.instance = nil
    Tracing.configuration = nil
    Spanring::RAAF.install!
    @worker = Worker.new
    @tracer = Tracing.tracer
  end

  def last_name(span) = span.name[/\w+\z/]

  class Raises
    def initialize(error) = @error = error
    def on_span_end(_span) = nil
    def force_flush = raise(@error)
  end

  # ---- What stops a thread ----

  def test_what_stops_a_thread_while_an_error_is_recorded_goes_on
    [Interrupt.new("stop"), SystemExit.new(3), SignalException.new("TERM"), Class.new(Exception).new("own")].each do |error|
      Tracing.set_trace_processors(Raises.new(error))
      assert_same(error, assert_raises(error.class) { @worker.with_tracing(:run) { raise ArgumentError, "no" } })
    end
    Tracing.set_trace_processors(Raises.new(IOError.new("no network")))
    assert_equal("no", assert_raises(ArgumentError) { @worker.with_tracing(:run) { raise ArgumentError, "no" } }.message)
    assert_equal [2] * 5, spans.map { |span| span.status["code"] }
    refute @worker.traced?
  end

  class Mute < StandardError
    def message = raise("no message")
  end

  def test_an_error_that_cannot_be_read_leaves_a_status
    assert_raises(Mute) { @worker.with_tracing(:mute) { raise Mute } }
    assert_raises(ArgumentError) { @worker.with_tracing(:frozen) { @worker.current_span[:attributes].freeze; raise ArgumentError, "no" } }
    assert_equal [2, 2], spans.map { |span| span.status["code"] }
    assert_equal [["exception"]] * 2, spans.map { |span| span.events.map(&:first) }
  end

  # While a value of a span makes its text, on the way of `record`.
  def stopped_in(&record)
    entered = Queue.new
    value = Waits.new(entered)
    thread = Thread.new { assert_raises(Stop) { record.call(value); Thread.pass } }
    thread.report_on_exception = false
    Timeout.timeout(60) { entered.pop }
    thread.raise(Stop)
    entered.close
    Timeout.timeout(60) { thread.value }
  end

  def test_what_stops_a_thread_while_attributes_are_recorded_is_the_hosts
    stopped_in do |value|
      span = @tracer.start_span("work")
      span.set_attribute("llm.request.messages", [value]) # JSON
      span.finish
    end
    stopped_in { |value| @worker.with_tracing(:run) { @worker.current_span[:attributes]["llm.request.messages"] = [value] } }
    assert_equal 2, spans.size
  end

  # ---- Spans that nobody ends ----

  def test_a_span_that_is_left_open_is_not_current_beyond_its_component
    open = nil
    @worker.with_tracing(:outer) { open = @tracer.start_span("open") }
    assert_nil Spanring.current_span
    @worker.with_tracing(:after) {}
    assert_raises(IOError) { @worker.with_tracing(:fails) { @tracer.start_span("lost"); raise IOError } }
    @worker.with_tracing(:later) {}
    Thread.new { @worker.with_tracing(:thread) {} }.join
    open.finish
    found = spans.to_h { |span| [last_name(span), span] }
    assert_equal found["outer"].span_id, found["open"].parent
    assert_equal [nil] * 3, found.values_at("after", "later", "thread").map(&:parent)
  end

  # In a fiber of its own, whose stack is as small as it begins: what room there is may be taken.
  def test_spans_that_have_ended_below_one_that_goes_on_take_no_room = Fiber.new { overlap }.resume

  def overlap
    @worker.with_tracing(:outer) do
      first = @tracer.start_span("first")
      2000.times do
        second = @tracer.start_span("next")
        first.finish
        first = second
      end
      @tracer.context.instance_variable_get(:@spans).clear # the tracer keeps its last
      GC.start
      assert_operator ObjectSpace.each_object(Spanring::Span).count, :<, 200
      Spanring.span("block") { first.finish }
      assert_equal "outer", Spanring::RAAF.const_get(:Parents).ambient.name[/\w+\z/]
    end
    assert_nil Spanring.current_span
  end

  # ---- Prompts ----

  def test_events_have_no_content_without_it
    Spanring::RAAF.const_get(:Live).content = false
    @tracer.span("work") { |span| span.add_event("asked", attributes: { "llm.prompt" => "secret", completion: "secret", "model" => "gpt-4o" }) }
    @worker.with_tracing(:run) { @worker.current_span[:events] << { name: "asked", attributes: { "llm.prompt" => "secret", "model" => "gpt-4o" } } }
    found = spans
    refute_includes found.map(&:raw).to_s, "secret"
    assert_equal [[["asked", { "model" => "gpt-4o" }]]] * 2, found.map(&:events)
  ensure
    Spanring::RAAF.const_get(:Live).content = true
  end

  # ---- Values ----

  def test_what_cannot_be_recorded_is_not_the_hosts_error
    called = false
    odd = { 1 => "one", nil => "nothing", "proc" => -> { called = true }, "a" => 1 }
    value = @worker.with_tracing(:run) do
      span = @worker.current_span
      span[:attributes]["kept"] = 1
      span[:events].push(nil, 7, { name: "first", attributes: odd }, { name: "second", attributes: 7 }, { name: "third", timestamp: Object.new }, { name: "last" })
      :value
    end
    assert_equal :value, value
    assert_equal(:value, @tracer.span("tracer") { |span| span.add_event("first", attributes: odd).add_event("second", attributes: 7).add_event("last"); :value })
    run, tracer = spans
    assert_equal [1, true, 1], [*run.attributes.values_at("kept", "success"), run.status["code"]]
    [run, tracer].each do |span|
      assert_equal %w[first last], span.events.map(&:first) & %w[first last]
      assert_equal ["one", 1], span.events.first[1].values_at("1", "a")
    end
    refute called
  end

  def test_a_time_that_is_none_ends_a_span
    span = @tracer.start_span("work")
    span.set_attribute("a", 1)
    assert_same span, span.finish(end_time: Time.at(-1))
    assert_equal [1, 1], [one("work").attributes["a"], one("work").status["code"]]
  end

  def test_what_the_hooks_gave_is_copied
    found = { "a" => 1 }
    seen = []
    Tracing.add_trace_processor(Class.new { define_method(:on_span_end) { |span| found["a"] = 2; seen << span.attributes["a"] } }.new)
    @worker.define_singleton_method(:collect_result_attributes) { |_| found }
    @worker.with_tracing(:run) {}
    assert_equal [1], seen
  end

  # A value whose text adds to the Hash that has it.
  class Adds
    def initialize(to) = @to = to
    def to_s = (@to["more #{@to.size}"] = 1) && "added"
  end

  def test_attributes_may_grow_while_they_are_recorded
    span = @tracer.start_span("work")
    span.attributes["adds"] = Adds.new(span.attributes)
    span.attributes["last"] = 1
    span.finish
    assert_equal ["added", 1], one("work").attributes.values_at("adds", "last")
  end

  # ---- Names ----

  def test_a_trace_id_in_capitals_has_children
    Tracing.trace("Support", trace_id: "trace_#{"AB" * 16}") { @worker.with_tracing(:run) { @tracer.span("below") {} } }
    root, run, below = spans
    assert_equal [root.span_id, run.span_id], [run.parent, below.parent]
    assert_equal ["ab" * 16] * 3, [root, run, below].map(&:trace_id)
  end

  def test_a_symbol_that_came_first_is_no_other_name
    script(<<~RUBY)
      require #{File.expand_path("raaf_stand_in", __dir__).inspect}
      require "spanring/raaf"
      Spanring::RAAF.install!(dir: PLACE, ignore_environment: true)
      tracer = RAAF::Tracing.tracer
      symbol = tracer.start_span("symbol")
      symbol.attributes.merge!("gen_ai.request.model": "own", "llm.model" => "other")
      symbol.finish
      3.times { tracer.span("string", "gen_ai.request.model" => "own", "llm.model" => "other") {} }
    RUBY
    recorded.each do |span|
      assert_equal ["own"], span.raw["attributes"].select { |pair| pair["key"] == "gen_ai.request.model" }.map { |pair| Recorded.value(pair["value"]) }
    end
  end
end

# What needs a process of its own.
class TestRAAFHostAlone < Case
  HEAD = <<~RUBY
    require #{File.expand_path("raaf_stand_in", __dir__).inspect}
    require "spanring/raaf"
    def ask = RAAF::Tracing.tracer.span("work", "llm.prompt" => "secret") {}
  RUBY

  {
    "a second call" => "2.times { |number| Spanring::RAAF.install!(**(number.zero? ? { dir: PLACE, ignore_environment: true, capture_content: false } : {})) }",
    "a processor that is there" => "RAAF::Tracing.set_trace_processors(Spanring::RAAF::Processor.new(dir: PLACE, capture_content: false)); Spanring::RAAF.install!",
    "settings and a processor" => "RAAF::Tracing.set_trace_processors(Spanring::RAAF::Processor.new(dir: PLACE, capture_content: false)); Spanring::RAAF.install!(preset: 'raaf')",
  }.each do |way, text|
    define_method("test_without_content_by_#{way.tr(" ", "_")}") do
      script(HEAD + "#{text}\nask\n")
      assert_equal ["work"], names
      refute_includes recorded.map(&:raw).to_s, "secret"
    end
  end
end
