# frozen_string_literal: true

# RAAF's processor in a process: how it is configured, flushes and shutdowns, signals, forks, threads, exits, and what RAAF itself registers.
require_relative "helper"
require_relative "raaf_spans"
require "minitest/mock"
require "spanring/raaf"

class TestRAAFProcesses < Case
  Processor = Spanring::RAAF::Processor

  HEAD = <<~RUBY
    require "spanring/raaf"
    require #{File.expand_path("raaf_spans", __dir__).inspect}
    def processor(**settings) = Spanring::RAAF::Processor.new(dir: PLACE, ignore_environment: true, **settings)
    def span(name = "span", **fields) = RAAFSpans.bare(name: name, **fields)
    def check(wrong) = raise(wrong.inspect)
  RUBY

  def run_script(text, **options) = script(HEAD + text, **options)

  # RAAF's registry, as far as a processor sees it.
  RAAF = <<~RUBY
    module RAAF
      module Tracing
        class << self
          attr_accessor :configuration
          def shutdown = TraceProvider.instance.processors.each(&:shutdown)
        end
        class OpenAIProcessor; end
        class BatchTraceProcessor
          def initialize(exporter) = @exporter = exporter
        end
        class TraceProvider
          def self.instance = @instance ||= new
          def processors = @processors ||= []
        end
      end
    end
  RUBY

  # ---- Configuration ----

  def given_to_start(**keywords)
    given = nil
    Spanring.stub(:start, ->(**settings) { given = settings }) { Processor.new(**keywords) }
    given
  end

  def test_settings
    assert_equal({ preset: "raaf" }, given_to_start)
    assert_equal({ preset: "production", batch_size: 7, flush_interval: 2.5, retry_attempts: 3, compression: "zstd" },
                 given_to_start(preset: "production", batch_size: 7, flush_interval: 2.5, retry_attempts: 3, compression: :zstd).transform_values { |value| value.is_a?(Symbol) ? value.to_s : value })
    assert_equal "gzip", given_to_start(compression: true)[:compression]
    assert_equal "none", given_to_start(compression: false)[:compression]
    assert_equal({ preset: "raaf", max_spans: 5000 }, given_to_start(queue_size: 5000, batch_size: nil))
    assert_equal 6000, given_to_start(queue_size: 5000, max_spans: 6000)[:max_spans]
  end

  def test_what_is_no_setting
    error = assert_raises(ArgumentError) { Processor.new(batch_sise: 7, ignore_environment: true) }
    assert_match(/batch_sise/i, error.message)
    error = assert_raises(ArgumentError) { Processor.new(batch_size: "many", ignore_environment: true) }
    assert_match(/many/, error.message)
  end

  def test_what_raaf_was_told
    configured = Struct.new(:max_spans_in_memory, :cleanup_interval, :other).new(2000, 30, 1)
    with_raaf(configured) do
      assert_equal({ preset: "raaf", max_spans: 2000, cleanup_interval: 30 }, given_to_start)
      assert_equal({ preset: "raaf", max_spans: 10, cleanup_interval: 30 }, given_to_start(queue_size: 10))
      assert_equal({ preset: "raaf", max_spans: 11, cleanup_interval: 5 }, given_to_start(max_spans: 11, cleanup_interval: 5))
    end
    with_raaf(Struct.new(:max_spans_in_memory).new(nil)) { assert_equal({ preset: "raaf" }, given_to_start) }
    with_raaf(nil) { assert_equal({ preset: "raaf" }, given_to_start) }
    duration = Class.new { def to_f = 60.0 }.new
    with_raaf(Struct.new(:cleanup_interval).new(duration)) { assert_equal 60.0, given_to_start[:cleanup_interval] }
  end

  def with_raaf(configuration)
    before = Object.send(:remove_const, :RAAF) if defined?(::RAAF)
    Object.const_set(:RAAF, Module.new)
    ::RAAF.const_set(:Tracing, Module.new)
    ::RAAF::Tracing.define_singleton_method(:configuration) { configuration }
    yield
  ensure
    Object.send(:remove_const, :RAAF)
    Object.const_set(:RAAF, before) if before
  end

  def test_the_environment_is_read_when_it_is_made
    _, said = script(<<~RUBY)
      require "spanring/raaf"
      require #{File.expand_path("raaf_spans", __dir__).inspect}
      ENV["SPANRING_DIR"] = PLACE
      ENV["RAAF_TRACE_BATCH_SIZE"] = "7"
      ENV["SPANRING_SERVICE_NAME"] = "from the environment"
      processor = Spanring::RAAF::Processor.new(service_name: "from code", batch_size: 50)
      14.times { |number| processor.on_span_end(RAAFSpans.bare(name: "span \#{number}")) }
    RUBY
    assert_empty said
    found = recorded
    assert_equal 14, found.size
    assert_equal ["from the environment"], found.map { |span| span.resource["service.name"] }.uniq
  end

  def test_a_pipeline_that_is_there_is_used
    _, said = run_script(<<~RUBY)
      begin_spans
      processor = Spanring::RAAF::Processor.new
      processor.on_span_end(span)
      Spanring::RAAF::Processor.new(batch_size: 5)
    RUBY
    assert_equal ["span"], names
    assert_match(/the pipeline was started before.*give batch_size to Spanring.start/, said)
    assert_equal 1, said.lines.size
  end

  def test_a_second_processor_like_the_first_says_nothing
    _, said = run_script("2.times { processor.on_span_end(span) }")
    assert_empty said
    assert_equal %w[span span], names
  end

  def test_a_pipeline_that_cannot_start_says_why
    error = assert_raises(Spanring::Error) { Processor.new(dir: "/dev/null/spans", ignore_environment: true) }
    assert_match(%r{/dev/null/spans}, error.message)
  end

  # ---- Flush and shutdown ----

  SILENT = <<~RUBY
    require "socket"
    require "timeout"
    SERVER = TCPServer.new("127.0.0.1", 0) # never answers
    def silent(**settings)
      Spanring::RAAF::Processor.new(endpoint: "http://127.0.0.1:\#{SERVER.addr[1]}", ignore_environment: true, log_level: :fatal, **settings)
    end
    def now = Process.clock_gettime(Process::CLOCK_MONOTONIC)
  RUBY

  def test_a_flush_seals_and_returns_at_once
    run_script(<<~RUBY)
      processor = processor(flush_interval: 3600)
      processor.on_span_end(span)
      check("waits") unless processor.force_flush.nil? && processor.flush.nil?
      Thread.pass until Spanring.stats["sealed"] == 1
      check("not delivered") unless processor.force_flush(timeout: 30) == true
    RUBY
    assert_equal ["span"], names
  end

  def test_a_flush_with_a_timeout_lets_others_run_and_does_not_raise
    run_script(SILENT + <<~RUBY)
      processor = silent
      processor.on_span_end(span)
      start = now
      100.times { processor.force_flush }
      check("it waits") if now - start > 2
      turns = 0
      stop = false
      other = Thread.new { until stop do turns += 1; sleep 0.001 end }
      check("delivered") unless processor.force_flush(timeout: 0.5) == false
      stop = true
      other.join
      check(turns) unless turns > 20
      begin
        Timeout.timeout(0.3, IOError) { processor.force_flush(timeout: 30) }
        check("the host's error is swallowed")
      rescue IOError
        nil
      end
      check("raises") unless processor.force_flush(timeout: -1) == false && processor.force_flush(timeout: "soon") == false
      # One shutdown waits for a receiver that does not answer, the others have nothing new to wait for.
      start = now
      5.times { processor.shutdown(timeout: 0.5) }
      check("each waits") if now - start > 1.5
      Spanring.shutdown(0.1) rescue nil
      check("raises") unless processor.shutdown.nil? && processor.force_flush.nil?
    RUBY
  end

  def test_spans_may_follow_a_shutdown_and_another_shutdown
    run_script(<<~RUBY)
      processor = processor()
      5.times do |number|
        processor.on_span_end(span("span \#{number}"))
        3.times { processor.shutdown }
        check(Spanring.stats) unless Spanring.stats["sinks"].all? { |sink| sink["delivered"] == number + 1 }
      end
      Spanring.shutdown
      processor.on_span_end(span("after the pipeline"))
      processor.shutdown
      check(processor.stats) unless processor.stats == { recorded: 5, repeated: 0, unrecorded: 1, damaged: 0, failed: 0 }
    RUBY
    assert_equal (0...5).map { |number| "span #{number}" }, names
  end

  # ---- Signals, threads, fibers, forks, exits ----

  def test_in_trap_handlers
    run_script(<<~RUBY)
      processor = processor(max_spans: 100_000)
      broken = Object.new
      count = 0
      trap(:USR1) do
        processor.on_span_start(span("handled", kind: :trace))
        processor.on_span_end(span("handled", kind: :llm, start_time: "2026-01-02T03:04:05Z", attributes: { "llm.request.messages" => [{ a: count += 1 }] }))
        processor.export([span("exported")])
        processor.on_span_end(broken)
        processor.force_flush
        processor.force_flush(timeout: 0.01)
        processor.shutdown(timeout: 0.01)
        processor.stats
      end
      # The next signal when the last is handled, or the handler alone would run.
      sender = Thread.new { 50.times { |number| Process.kill(:USR1, $$); Thread.pass until count > number } }
      processor.on_span_end(span("work", attributes: { number: count, list: [count] })) while sender.alive?
      sender.join
    RUBY
    found = names.tally
    assert_operator found["handled"], :>=, 50
    assert_equal found["handled"], found["exported"]
  end

  def test_threads_and_fibers
    run_script(<<~RUBY)
      processor = processor(max_spans: 100_000)
      threads = 8.times.map do |thread|
        Thread.new do
          200.times do |number|
            Fiber.new { processor.on_span_end(span("span", attributes: { thread: thread, number: number })) }.resume
            processor.force_flush if (number % 50).zero?
          end
        end
      end
      threads.each(&:join)
      check(processor.stats) unless processor.stats[:recorded] == 1600
    RUBY
    assert_equal 1600, recorded.map { |span| span.attributes.values_at("thread", "number") }.uniq.size
  end

  def test_forks
    run_script(<<~RUBY)
      processor = processor()
      trace = { trace_id: "trace_\#{SecureRandom.hex(16)}" }
      processor.on_span_start(span(**trace, kind: :trace, span_id: "span_root"))
      processor.on_span_end(span("parent"))
      children = (0...6).map do |number|
        fork do
          processor.on_span_end(span("child \#{number}", **trace, parent_id: "span_root", attributes: { pid: $$ }))
          processor.force_flush
          exit!(0) if number.even?
        end
      end
      children.each { |child| Process.wait(child) }
      processor.on_span_end(span("after"))
    RUBY
    found = recorded
    assert_equal ["after", *(0...6).map { |number| "child #{number}" }, "parent"], found.map(&:name).sort
    children = found.select { |span| span.name.start_with?("child") }
    assert_equal [6, 1, [""]], [children.map { |span| span.attributes["pid"] }.uniq.size, children.map(&:trace_id).uniq.size, children.map { |span| span.attributes["openai.parent_id"] }.uniq]
  end

  EXITS = {
    "normal" => ["", 0],
    "shut down by RAAF at last" => ["", 0],
    "exit in a trap" => ["trap(:TERM) { give('left'); exit 3 }; Process.kill(:TERM, $$); sleep", 3],
    "TERM" => ["Process.kill(:TERM, $$); sleep", -15],
    "exit!" => ["exit!(4)", 4],
    "an error" => ["at_exit { give('left') }; raise 'uncaught'", 1],
    "later than RAAF's shutdown" => ["at_exit { RAAF::Tracing.shutdown; give('left') }", 0],
    "in a finalizer" => ["ObjectSpace.define_finalizer(kept = Object.new, proc { give('left') })", 0],
  }.freeze

  EXITS.each do |way, (text, status)|
    define_method("test_everything_is_there_after_#{way.gsub(/\W+/, "_")}") do
      # Handlers run in the reverse order: what is there before is the last.
      run_script(<<~RUBY, status: status)
        #{RAAF}
        at_exit { give("last") }
        at_exit { RAAF::Tracing.shutdown }
        PROCESSOR = processor
        RAAF::Tracing::TraceProvider.instance.processors << PROCESSOR
        def give(name) = PROCESSOR.on_span_end(span(name))
        at_exit { give("first") }
        100.times { give("span") }
        #{text}
      RUBY
      expected = { "span" => 100 }
      expected.merge!("first" => 1, "last" => 1) unless text.include?("exit!")
      expected["left"] = 1 if text.include?("left")
      assert_equal expected, names.tally
    end
  end

  # ---- OpenAI ----

  def test_what_openai_gets
    out, = script(HEAD + <<~'RUBY')
      require "socket"
      require "json"
      server = TCPServer.new("127.0.0.1", 0)
      bodies = Queue.new
      Thread.new do
        client = server.accept
        loop do
          head = +""
          head << client.readline until head.end_with?("\r\n\r\n")
          bodies << client.read(Integer(head[/content-length: (\d+)/i, 1]))
          client.write("HTTP/1.1 204 No Content\r\n\r\n")
        end
      end
      processor = Spanring::RAAF::Processor.new(openai: true, openai_api_key: "sk-test", openai_base_url: "http://127.0.0.1:#{server.addr[1]}/v1", ignore_environment: true)
      of = { trace_id: "trace_#{"c" * 32}" }
      root, agent = "span_#{"a" * 32}", "span_#{"b" * 32}"
      processor.on_span_start(RAAFSpans.whole(**of, kind: :trace, span_id: root))
      processor.on_span_end(span(**of, kind: :tool, span_id: "span_#{"d" * 24}", parent_id: agent, attributes: { tool_name: "search", "function.input" => { q: 1 } }))
      processor.on_span_end(span(**of, kind: :agent, span_id: agent, parent_id: root, status: :error, attributes: { "agent.name" => "Triage", "error.message" => "boom" }))
      processor.on_span_end(RAAFSpans.whole(**of, kind: :trace, span_id: root, attributes: { "trace.workflow_name" => "shop", "trace.group_id" => "g" }))
      processor.force_flush(timeout: 30) || check(Spanring.messages)
      puts bodies.pop
    RUBY
    trace, tool, agent = JSON.parse(out)["data"]
    assert_equal ["trace", "trace_#{"c" * 32}", "shop", "g"], trace.values_at("object", "id", "workflow_name", "group_id")
    assert_equal ["span_#{"d" * 24}", "span_#{"b" * 32}", "function", "search", '{"q":1}'], [*tool.values_at("id", "parent_id"), *tool["span_data"].values_at("type", "name", "input")]
    assert_equal ["span_#{"b" * 32}", nil, "agent", "Triage", "boom"], [*agent.values_at("id", "parent_id"), *agent["span_data"].values_at("type", "name"), agent["error"]["message"]]
  end

  # ---- RAAF's own OpenAI processor ----

  DOUBLE = /OpenAI gets every span twice/

  def test_openai_twice_is_said_once
    [["RAAF::Tracing::OpenAIProcessor.new", true], ["RAAF::Tracing::BatchTraceProcessor.new(RAAF::Tracing::OpenAIProcessor.new)", true], ["nil", true],
     ["RAAF::Tracing::OpenAIProcessor.new", false], ["RAAF::Tracing::OpenAIProcessor.new", nil]].each_with_index do |(others, openai), index|
      _, said = run_script(<<~RUBY)
        #{RAAF}
        processor = processor()
        processor.instance_variable_set(:@openai, #{openai.inspect})
        RAAF::Tracing::TraceProvider.instance.processors << processor << #{others}
        3.times { processor.on_span_end(span) }
      RUBY
      assert_equal index < 2 ? 1 : 0, said.lines.grep(DOUBLE).size, said
    end
  end

  def test_whether_openai_is_on
    switch = ->(given) { Spanring::RAAF::Conventions.switch("OPENAI", given) }
    assert_nil switch[nil]
    assert switch[true]
    refute switch[false]
    with_environment("SPANRING_OPENAI" => "off", "RAAF_TRACE_OPENAI" => "true") { refute switch[true] }
    with_environment("SPANRING_OPENAI" => "what", "RAAF_TRACE_OPENAI" => " Yes ") { assert switch[false] }
  end

  def with_environment(values)
    before = values.keys.to_h { |name| [name, ENV[name]] }
    ENV.update(values)
    yield
  ensure
    ENV.update(before)
  end

  # ---- The garbage collector ----

  def test_every_allocation_collects
    run_script(<<~RUBY)
      class Token; def to_s = "token"; end
      processor = processor()
      require "bigdecimal"
      given = Array.new(2) do |number|
        attributes = { "llm.tokens.input" => "12", "llm.request.messages" => [{ role: "user", content: "hello \#{number}" }], it: Token.new,
                       "nested" => { a: [Token.new, { b: "\\xFF" }] }, "k\#{number}" => BigDecimal("1.5"), "usage" => { prompt_tokens: 3 } }
        events = [{ name: "event", timestamp: "2026-01-02T03:04:05Z", attributes: { it: Token.new } }]
        [span(kind: :trace, trace_id: "trace \#{number}", span_id: "root"),
         span("span", kind: :llm, trace_id: "trace \#{number}", span_id: "child", parent_id: "root", attributes: attributes, events: events),
         RAAFSpans.whole(name: "name \#{number}", kind: :tool, status: :error, attributes: attributes),
         RAAFSpans.whole(attributes: attributes).tap { |broken| broken.define_singleton_method(:kind) { raise IOError, "broken" } }]
      end
      given.each_with_index do |(trace, bare, whole, broken), number|
        GC.stress = true if number == 1
        processor.on_span_start(trace)
        processor.on_span_end(bare)
        processor.export([whole, broken])
      end
      GC.stress = false
      check(processor.stats) unless processor.stats == { recorded: 6, repeated: 0, unrecorded: 0, damaged: 2, failed: 0 }
    RUBY
    found = recorded
    assert_equal 6, found.size
    found.select { |span| span.attributes["raaf.kind"] == "llm" }.each do |span|
      assert_equal ["token", 12, ""], span.attributes.values_at("it", "gen_ai.usage.input_tokens", "openai.parent_id")
      assert_equal [["event", { "it" => "token" }]], span.events
    end
  end

  def test_nothing_is_kept
    out, = run_script(<<~RUBY)
      processor = processor(max_spans: 1000, retention_bytes: "1MiB", segment_max_bytes: "256KiB", log_level: :fatal)
      exercise = lambda do |count|
        count.times do |number|
          processor.on_span_end(span("span \#{number}", kind: :llm, attributes: { "llm.request.messages" => [{ role: "user", content: "x" * 5000 }] },
                                     events: [{ name: "event", attributes: { a: 1 } }]))
        end
        3.times { GC.start }
        processor.force_flush(timeout: 30)
        Integer(File.read("/proc/self/statm").split[1]) * 4
      end
      exercise[3000]
      before = exercise[1000]
      puts exercise[10_000] - before
    RUBY
    # A span that were kept would be 10 kB.
    assert_operator Integer(out), :<, 20_000
  end
end
