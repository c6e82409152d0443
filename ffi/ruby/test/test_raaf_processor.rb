# frozen_string_literal: true

# RAAF's processor: what becomes of its spans.
require_relative "helper"
require_relative "raaf_spans"
require_relative "test_spans"
require "spanring/raaf"

class TestRAAFProcessor < Case
  include RAAFSpans

  Processor = Spanring::RAAF::Processor

  def processor(**settings)
    Processor.new(dir: @place, service_name: "tests", ignore_environment: true, **settings)
  end

  # What becomes of one span.
  def recorded(span, **settings)
    processor(**settings).on_span_end(span)
    found = spans
    assert_equal 1, found.size
    found.first
  end

  def both(**fields)
    SHAPES.each { |shape| yield send(shape, **fields), shape }
  end

  KINDS = {
    agent: ["AGENT", "invoke_agent", 1, "agent"], llm: ["LLM", "chat", 3, "generation"], tool: ["TOOL", "execute_tool", 1, "function"],
    handoff: ["CHAIN", nil, 1, "handoff"], guardrail: ["GUARDRAIL", nil, 1, "guardrail"], pipeline: ["CHAIN", nil, 1, "custom"],
    runner: ["CHAIN", nil, 1, "custom"], job: ["CHAIN", nil, 1, "custom"], component: ["CHAIN", nil, 1, "custom"],
    custom: ["CHAIN", nil, 1, "custom"], internal: ["CHAIN", nil, 1, "custom"], trace: ["CHAIN", nil, 1, "trace"],
    response: ["LLM", "chat", 3, "response"], speech: ["LLM", nil, 3, "speech"], speech_group: ["CHAIN", nil, 1, "speech_group"],
    transcription: ["LLM", nil, 3, "transcription"], mcp_list_tools: ["CHAIN", nil, 3, "mcp_tools"], search: ["CHAIN", nil, 1, "custom"]
  }.freeze

  def test_every_kind_in_both_shapes
    processor = processor()
    KINDS.each_key { |kind| SHAPES.each { |shape| processor.on_span_end(send(shape, kind: kind, name: "#{shape} #{kind}")) } }
    found = by_name
    KINDS.each do |kind, (openinference, operation, span_kind, type)|
      SHAPES.each do |shape|
        span = found.fetch("#{shape} #{kind}")
        expected = { "raaf.kind" => kind.to_s, "openinference.span.kind" => openinference, "openai.span.type" => type }
        expected["gen_ai.operation.name"] = operation if operation
        assert_equal expected, span.attributes.reject { |name, _| name == "openai.span_id" }
        assert_equal span_kind, span.kind
        assert_equal "raaf", span.scope["name"]
        assert_equal [START_NANOS, START_NANOS + MILLISECOND], times(span)
        assert_equal 1, span.status["code"]
      end
    end
    assert_equal({ recorded: 2 * KINDS.size, repeated: 0, unrecorded: 0, damaged: 0, failed: 0 }, processor.stats)
  end

  def test_rules_see_what_raaf_s_spans_have
    processor = processor(rules: ["raaf.kind=tool, scope=raaf -> never", "tenant=a -> always", "* -> never"])
    SHAPES.each do |shape|
      processor.on_span_end(send(shape, kind: :tool, name: "#{shape} tool", attributes: { tenant: "a" }))
      processor.on_span_end(send(shape, kind: :llm, name: "#{shape} a", attributes: { "tenant" => "a" }))
      processor.on_span_end(send(shape, kind: :llm, name: "#{shape} b", attributes: { tenant: "b" }))
    end
    assert_equal SHAPES.map { |shape| "#{shape} a" }.sort, spans.map(&:name).sort
    assert_equal "tenant=a -> always", spans.first.attributes["spanring.sampling.rule"]
  end

  def times(span) = span.raw.values_at("startTimeUnixNano", "endTimeUnixNano").map { |text| Integer(text) }

  def test_kinds_and_statuses_may_be_text
    found = recorded(whole(kind: "llm", status: "error"))
    assert_equal ["LLM", 2], [found.attributes["openinference.span.kind"], found.status["code"]]
  end

  # What is called is not a value to us.
  VALUES = TestSpans::VALUES.reject { |value, _| [value, *(value if Array === value)].any? { |item| Proc === item || Method === item } }

  def test_every_kind_of_value_in_attributes_and_events
    processor = processor()
    VALUES.each_with_index do |(given, _), index|
      event = { name: "event", timestamp: START.iso8601, attributes: { it: given } }
      processor.on_span_end(send(SHAPES[index % 2], name: "value #{index}", attributes: { "it" => given, again: given }, events: [event]))
    end
    found = by_name
    VALUES.each_with_index do |(_, expected), index|
      span = found.fetch("value #{index}")
      value = span.attributes.fetch("it")
      value = expected unless expected.nil? && !value.nil?
      assert_equal [value, value, value].inspect, [span.attributes["it"], span.attributes["again"], span.events[0][1]["it"]].inspect
    end
    assert_equal 0, processor.stats[:damaged]
  end

  def test_procs_are_not_called
    called = false
    found = recorded(whole(attributes: { it: -> { called = true }, nested: [proc { called = true }], method: 7.method(:to_s) }))
    refute called
    assert_match(/\A#<Proc/, found.attributes["it"])
    assert_match(/\A#<Proc/, found.attributes["nested"][0])
    assert_match(/\A#<Method/, found.attributes["method"])
  end

  def test_values_without_end_or_text
    circle = { name: "circle" }
    circle[:self] = circle
    list = []
    list << list
    deep = 150.times.inject("end") { |inner, _| [inner] }
    prompt = "x" * 200_000
    attributes = { circle: circle, list: list, deep: deep, bare: TestSpans::Bare.new, prompt: prompt,
                   "llm.request.messages" => [{ role: "user", content: circle }] }
    found = recorded(whole(attributes: attributes)).attributes
    assert_equal "circle", found["circle"]["self"]["self"]["name"]
    depth = 0
    inner = found["deep"]
    inner, depth = inner[0], depth + 1 while inner.is_a?(Array)
    assert_equal ["...", 99], [inner, depth]
    assert_match(/\A#<TestSpans::Bare/, found["bare"])
    assert_equal prompt, found["prompt"]
    # There is no JSON of it.
    assert_equal "user", found["input.value"][0]["role"]
    refute_includes found, "input.mime_type"
  end

  def test_a_span_is_not_changed
    attributes = { "llm.tokens.input" => "12", "llm.request.messages" => [{ role: "user", content: +"hello" }], "usage" => { "input_tokens" => 1 },
                   :model => "gpt-4o", "nested" => { a: [1, { b: "\xFF" }] } }
    events = [{ name: "event", timestamp: "2026-01-02T03:04:05Z", attributes: { a: { b: 1 } } }]
    before = Marshal.load(Marshal.dump([attributes, events]))
    freeze_all([attributes, events])
    processor = processor(capture_content: false)
    both(kind: :llm, attributes: attributes, events: events) { |span, _| processor.on_span_end(span.freeze) }
    assert_equal before.inspect, [attributes, events].inspect
    assert_equal({ recorded: 2, repeated: 0, unrecorded: 0, damaged: 0, failed: 0 }, processor.stats)
  end

  def freeze_all(value)
    case value
    when Hash then value.each { |pair| pair.each { |item| freeze_all(item) } }
    when Array then value.each { |item| freeze_all(item) }
    end
    value.freeze
  end

  # Others may add to what a span has while its values make their text.
  def test_hashes_that_change_meanwhile
    nested = { 1 => nil }
    growing = Class.new { define_method(:to_s) { nested[nested.size + 100] = 1; "grown" } }
    nested[2] = growing.new
    found = recorded(whole(attributes: { nested: nested }))
    assert_equal "grown", found.attributes["nested"]["2"]
    assert_operator nested.size, :>, 2
  end

  def test_times
    zone, ENV["TZ"] = ENV["TZ"], "America/New_York"
    processor = processor()
    give = ->(name, start, finish) { processor.on_span_end(bare(name: name, start_time: start, end_time: finish)) }
    give["time", Time.at(1_767_323_045, 1, :nsec), Time.at(1_767_323_045, 999_999_999, :nsec)]
    give["zone", Time.new(2026, 1, 2, 5, 4, 5, "+02:00"), Time.new(2026, 1, 2, 5, 4, 6, "+02:00")]
    give["text", "2026-01-02T03:04:05.123456789Z", "2026-01-02T04:04:05.5+01:00"]
    give["text without zone", "2026-01-02T03:04:05", "2026-01-02 03:04:06"]
    give["text of Ruby", "2026-01-02 03:04:05 UTC", "2026-01-02 05:04:06 +0200"]
    give["datetime", DateTime.new(2026, 1, 2, 3, 4, 5 + Rational(1, 2)), DateTime.new(2026, 1, 2, 3, 4, 6)]
    give["no start", nil, "2026-01-02T03:04:06Z"]
    give["backwards", "2026-01-02T03:04:06Z", "2026-01-02T03:04:05Z"]
    give["before 1970", Time.at(-5), Time.at(-4)]
    second = 1_767_323_045_000_000_000
    expected = {
      "time" => [1, 999_999_999], "zone" => [0, 1_000_000_000], "text" => [123_456_789, 500_000_000], "text without zone" => [0, 1_000_000_000],
      "text of Ruby" => [0, 1_000_000_000], "datetime" => [500_000_000, 1_000_000_000], "no start" => [1_000_000_000, 1_000_000_000],
      "backwards" => [1_000_000_000, 1_000_000_000], "before 1970" => [1 - second, 1 - second]
    }
    assert_equal(expected, by_name.transform_values { |span| times(span).map { |time| time - second } })
  ensure
    ENV["TZ"] = zone
  end

  def test_what_has_not_ended_ends_now_and_after_five_minutes_as_an_error
    processor = processor()
    before = Process.clock_gettime(Process::CLOCK_REALTIME, :nanosecond)
    SHAPES.each do |shape|
      processor.on_span_end(send(shape, name: "young #{shape}", end_time: nil, start_time: Time.now - 1))
      processor.on_span_end(send(shape, name: "old #{shape}", end_time: "what?", start_time: Time.now - 301))
    end
    found = by_name
    found.each_value { |span| assert_operator times(span)[1], :>=, before }
    SHAPES.each do |shape|
      assert_equal 1, found["young #{shape}"].status["code"]
      assert_equal 2, found["old #{shape}"].status["code"]
      assert_match(/\Anot finished after 30\d seconds\z/, found["old #{shape}"].status["message"])
    end
  end

  def test_statuses
    processor = processor()
    give = ->(name, status, attributes = {}) { processor.on_span_end(bare(name: name, status: status, attributes: attributes)) }
    give["ok", :ok]
    give["error", :error]
    give["described", :error, { "status.description" => "too slow", "error.message" => "other" }]
    give["raised", :error, { "error.message" => "broken \xFF", "error.type" => "IOError" }]
    give["cancelled", :cancelled]
    give["why", :cancelled, { "status.description" => "by the user" }]
    give["nothing", nil]
    found = by_name.transform_values { |span| span.status.values_at("code", "message") }
    expected = { "ok" => [1, nil], "error" => [2, nil], "described" => [2, "too slow"], "raised" => [2, "broken \uFFFD"], "cancelled" => [2, "cancelled"],
                 "why" => [2, "by the user"], "nothing" => [nil, nil] }
    assert_equal expected, found
  end

  def test_events
    events = [
      { name: "function.start", timestamp: "2026-01-02T03:04:05Z", attributes: { attempt: 2 } },
      { "name" => "text keys", "timestamp" => "2026-01-02T03:04:05.124Z", "attributes" => { "a" => [1] } },
      { name: :symbol, timestamp: START + Rational(1, 2000) },
      { name: "no time" },
      { name: "long before", timestamp: "2026-01-02T03:04:04Z", attributes: nil },
    ]
    found = recorded(whole(events: events))
    assert_equal [["function.start", { "attempt" => 2 }], ["text keys", { "a" => [1] }], ["symbol", {}], ["no time", {}], ["long before", {}]], found.events
    offsets = found.raw["events"].map { |event| Integer(event["timeUnixNano"]) - START_NANOS }
    # Whole seconds that would stand before the span are its start.
    assert_equal [0, 543_211, 500_000, MILLISECOND, -1_123_456_789], offsets
  end

  TOKENS = [
    [{ "llm.usage.input_tokens" => 12, "llm.usage.output_tokens" => 3 }, 12, 3],
    [{ "llm.usage.prompt_tokens" => "12", "llm.usage.completion_tokens" => 3.0 }, 12, 3],
    [{ "llm.tokens.input" => "1250", "llm.tokens.output" => "N/A" }, 1250, nil],
    [{ "llm.tokens.input" => "N/A", "input_tokens" => 7, output_tokens: 0 }, 7, 0],
    [{ usage: { input_tokens: 1, "completion_tokens" => "2" } }, 1, 2],
    [{ "llm" => { "usage" => { "prompt_tokens" => 5, "output_tokens" => 6 }, "request" => { "model" => "m" } } }, 5, 6],
    [{ "gen_ai.usage.input_tokens" => "9", "gen_ai.usage.output_tokens" => 8 }, 9, 8],
    [{ "llm.usage.input_tokens" => -1, "llm.usage.output_tokens" => "12 tokens" }, nil, nil],
    [{ "llm.usage.input_tokens" => nil, "usage" => "none", "llm" => 7 }, nil, nil],
    [{}, nil, nil],
  ].freeze

  def test_counts_of_tokens_are_integers_wherever_they_were
    processor = processor()
    TOKENS.each_with_index { |(attributes, *), index| both(kind: :llm, name: "tokens #{index}", attributes: attributes) { |span, _| processor.on_span_end(span) } }
    found = spans.group_by(&:name)
    TOKENS.each_with_index do |(_, input, output), index|
      assert_equal [[input, output]] * 2, found.fetch("tokens #{index}").map { |span| span.attributes.values_at("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens") }
    end
  end

  def test_counts_of_tokens_from_the_span_itself
    span = whole(kind: :llm)
    span.input_tokens = 5
    span.output_tokens = "7"
    assert_equal [5, 7], recorded(span).attributes.values_at("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens")
  end

  # RAAF's attributes, and what they are called as well.
  NAMES = [
    [:agent, { "agent.name" => "Triage", "agent.model" => "gpt-4o", "agent.tools" => ["a"], "agent.input" => "hi", "agent.output" => "ho" },
     { "gen_ai.agent.name" => "Triage", "gen_ai.request.model" => "gpt-4o", "input.value" => "hi", "input.mime_type" => "text/plain",
       "output.value" => "ho", "output.mime_type" => "text/plain" }],
    [:llm, { "llm.request.model" => "gpt-4o", "llm.model" => "other", "llm.request.messages" => [{ role: "user", content: "é" }],
             "llm.response.content" => "answer", "llm.response.finish_reason" => "stop", "llm.request.temperature" => 0.5 },
     { "gen_ai.request.model" => "gpt-4o", "input.value" => '[{"role":"user","content":"é"}]', "input.mime_type" => "application/json",
       "output.value" => "answer", "output.mime_type" => "text/plain", "gen_ai.response.finish_reasons" => ["stop"],
       "gen_ai.request.temperature" => 0.5 }],
    [:llm, { "llm.response.content" => nil, "llm.response.tool_calls" => [{ id: "call_1" }] },
     { "output.value" => '[{"id":"call_1"}]', "output.mime_type" => "application/json" }],
    [:llm, { "llm.model" => "N/A", model: "gpt-4o-mini" }, { "gen_ai.request.model" => "gpt-4o-mini" }],
    [:tool, { "function.name" => "search", "tool.name" => "SearchTool", "function.input" => { q: 1 }, "function.output" => [1] },
     { "gen_ai.tool.name" => "search", "input.value" => '{"q":1}', "input.mime_type" => "application/json", "output.value" => "[1]",
       "output.mime_type" => "application/json" }],
    [:tool, { tool_name: "search", "result.tool_result" => "found" },
     { "gen_ai.tool.name" => "search", "output.value" => "found", "output.mime_type" => "text/plain" }],
    [:handoff, { "handoff.from" => "a", "handoff.to" => "b" }, { "handoff.from_agent" => "a", "handoff.to_agent" => "b" }],
    [:guardrail, { "guardrail.name" => "polite", "guardrail.triggered" => false }, {}],
    [:trace, { "trace.workflow_name" => "shop", "trace.group_id" => "thread 1", "trace.metadata" => { a: 1 } }, { "session.id" => "thread 1" }],
    [:mcp_list_tools, { "mcp.server" => "s", "mcp.tools" => %w[a b] }, { "mcp.result" => %w[a b] }],
    [:response, { "response_id" => "resp_1" }, { "gen_ai.response.id" => "resp_1" }],
    [:tool, { "input.value" => "mine", "input.mime_type" => "text/x", "function.input" => { q: 1 } }, {}],
  ].freeze

  def test_names_of_others_are_added_to_raafs
    processor = processor()
    NAMES.each_with_index { |(kind, attributes, _), index| processor.on_span_end(bare(kind: kind, name: "names #{index}", attributes: attributes)) }
    found = by_name
    always = %w[raaf.kind openinference.span.kind openai.span.type gen_ai.operation.name openai.span_id]
    NAMES.each_with_index do |(_, attributes, added), index|
      plain = JSON.parse(JSON.generate(attributes))
      assert_equal plain.merge(added), found.fetch("names #{index}").attributes.except(*always)
    end
  end

  def test_without_content
    attributes = {
      "agent.name" => "Triage", "agent.input" => "secret", "agent.instructions" => "secret", "agent.conversation_messages" => "secret",
      "agent.final_agent_response" => "secret", "llm" => { "request" => { "messages" => "secret", "model" => "m" }, "usage" => { "input_tokens" => 3 } },
      "llm.request.messages" => ["secret"], "llm.response.content" => "secret", "llm.response.tool_calls" => ["secret"], "function.input" => "secret",
      "function.output" => "secret", "result.tool_result" => "secret", "result.success" => true, "tool.arguments" => "secret", prompt: "secret",
      arguments: "secret", "llm.tokens.output" => "4", "llm.tokens.input" => "N/A", "speech.input" => "secret", "input.value" => "secret",
      "gen_ai.output.messages" => "secret", "job.arguments" => "secret", "pipeline.initial_context" => { a: "secret" }, "duration_ms" => 5,
      "decision.answers" => "secret"
    }
    events = [{ name: "tool", timestamp: nil, attributes: { arguments: "secret", attempt: 1 } }]
    %w[SPANRING_CAPTURE_CONTENT RAAF_TRACE_CAPTURE_CONTENT].each do |name|
      script(<<~RUBY, environment: { name => "false", "SPANRING_DIR" => @place })
        require "spanring/raaf"
        require #{File.expand_path("raaf_spans", __dir__).inspect}
        Spanring::RAAF::Processor.new(capture_content: true).on_span_end(RAAFSpans.bare(kind: :agent, attributes: #{attributes.inspect}, events: #{events.inspect}))
        raise Spanring.messages.inspect unless Spanring.messages.empty?
      RUBY
    end
    found = Recorded.read(@place)
    assert_equal 2, found.size
    found.each do |span|
      refute_includes span.raw.to_s, "secret"
      assert_equal({ "agent.name" => "Triage", "result.success" => true, "llm.tokens.output" => "4", "llm.tokens.input" => "N/A", "duration_ms" => 5,
                     "gen_ai.agent.name" => "Triage", "gen_ai.request.model" => "m", "gen_ai.usage.input_tokens" => 3, "gen_ai.usage.output_tokens" => 4 },
                   span.attributes.reject { |name, _| name.match?(/\Aopen|raaf\.kind|operation/) })
      assert_equal [["tool", { "attempt" => 1 }]], span.events
    end
  end

  def test_limits_of_attributes_leave_ids_and_conventions
    attributes = (0...300).to_h { |number| ["key #{number}", number] }
    found = recorded(whole(kind: :tool, attributes: attributes)).attributes
    assert_equal 128, found.size
    assert_equal %w[TOOL function], found.values_at("openinference.span.kind", "openai.span.type")
    assert found["openai.span_id"]
  end

  # ---- Never raising ----

  def test_readers_that_raise
    %i[span_id trace_id parent_id name kind start_time end_time attributes events status].each do |field|
      [ArgumentError, NotImplementedError, NoMemoryError, SystemStackError].each do |error|
        span = whole(name: "span", attributes: { "kept" => 1 }, events: [{ name: "event" }])
        span.define_singleton_method(field) { raise error, "broken" }
        @place = File.join(@folder, "#{field} #{error}")
        processor = processor()
        capture { assert_nil processor.on_span_end(span) }
        assert_equal [1, 1, 0], processor.stats.values_at(:recorded, :damaged, :failed)
        found = spans.first
        assert_equal "#{error}: broken", found.attributes["spanring.error"]
        assert_equal 1, found.attributes["kept"] unless field == :attributes
        assert_equal (field == :name ? "custom" : "span"), found.name unless field == :kind
        Spanring.shutdown(30)
      end
    end
  end

  def capture
    before, $stderr = $stderr, StringIO.new
    yield
    $stderr.string
  ensure
    $stderr = before
  end

  NOTHING = [nil, 7, "text", Object.new, BasicObject.new, [], Class.new(BasicObject) { def method_missing(*) = ::Kernel.raise("no") }.new].freeze

  def test_what_is_no_span
    processor = processor()
    capture do
      NOTHING.each do |nothing|
        assert_nil processor.on_span_start(nothing)
        assert_nil processor.on_span_end(nothing)
        assert_nil processor.export(nothing)
        assert_nil processor.export([nothing])
      end
      assert_nil processor.export({})
    end
    assert_operator processor.stats[:failed], :>=, 2 * NOTHING.size
    assert_equal 0, Spanring.stats["created"]
  end

  def test_odd_fields
    processor = processor()
    odd = [nil, 7, :symbol, Object.new, BasicObject.new, [BasicObject.new], { 1 => 2 }, -> {}, Float::NAN, "\xFF"]
    capture do
      %i[span_id trace_id parent_id name kind start_time end_time attributes events status].each do |field|
        odd.each { |value| both(field => value) { |span, _| assert_nil processor.on_span_end(span) } }
      end
    end
    stats = processor.stats
    assert_equal 20 * odd.size, stats[:recorded] + stats[:repeated], stats.inspect
    assert_equal stats[:recorded], spans.size
  end

  def test_hashes_as_spans
    processor = processor()
    processor.export([{ span_id: "span_#{SecureRandom.hex(16)}", trace_id: "trace_#{SecureRandom.hex(16)}", name: "hash", kind: :tool, attributes: { "function.name" => "f" } }])
    assert_equal "f", one("hash").attributes["gen_ai.tool.name"]
  end

  def test_what_went_wrong_is_said_once
    out, said = script(<<~RUBY)
      require "spanring/raaf"
      processor = Spanring::RAAF::Processor.new(dir: PLACE, ignore_environment: true, worker_count: 4)
      Spanring::RAAF::Processor.new(dir: PLACE, ignore_environment: true, worker_count: 4)
      10.times { processor.on_span_end(Object.new) }
      puts Spanring.messages.map { |message| [message.severity, message.text].join(" ") }
    RUBY
    assert_equal 2, said.lines.size, said
    assert_match(/worker_count has no meaning/, said.lines[0])
    assert_match(/a span of RAAF could not be read in whole \(NoMethodError: undefined method/, said.lines[1])
    assert_equal out.lines.map { |line| line.sub("warn ", "spanring: warn: ") }, said.lines
  end

  def test_what_stops_a_thread_stops_it_after_the_span
    script(<<~RUBY)
      require "spanring/raaf"
      require #{File.expand_path("raaf_spans", __dir__).inspect}
      processor = Spanring::RAAF::Processor.new(dir: PLACE, ignore_environment: true)
      inside = Queue.new
      go_on = Queue.new
      slow = Class.new { define_method(:to_s) { inside << 1; go_on.pop; "slow" } }.new
      [ArgumentError, nil].each_with_index do |error, at|
        after = false
        thread = Thread.new do
          Thread.current.report_on_exception = false
          processor.on_span_end(RAAFSpans.bare(name: "span \#{at}", attributes: { it: slow }))
          Thread.pass
          after = true
        end
        inside.pop
        error ? thread.raise(error, "host's") : thread.kill
        go_on << 1
        begin
          thread.join
          raise "swallowed" if error
        rescue ArgumentError => caught
          raise caught unless caught.message == "host's"
        end
        raise "went on" if after
      end
    RUBY
    assert_equal [["span 0", "slow"], ["span 1", "slow"]], Recorded.read(@place).map { |span| [span.name, span.attributes["it"]] }.sort
  end
end
