# frozen_string_literal: true

require_relative "helper"

class TestTraceable < Case
  class Support
    include Spanring::Traceable
    trace_as :agent

    def run(question)
      with_tracing(:run, "input.value" => question) do |span|
        span&.set("agent.turns" => 1)
        yield if block_given?
        "an answer"
      end
    end

    def collect_span_attributes = { "gen_ai.request.model" => "gpt-4o" }
    def collect_result_attributes(answer) = { "output.value" => answer }
  end

  class Named < Support
    trace_as :tool, name: "search"
  end

  class SubSupport < Support; end

  class WeatherTool
    include Spanring::Traceable
  end

  class Plain
    include Spanring::Traceable
    trace_as :pipeline
  end

  def test_a_method_is_a_span_with_kind_and_what_the_hooks_say
    start
    assert_equal "an answer", Support.new.run("why?")
    found = one("run.workflow.agent.TestTraceable::Support")
    assert_equal({ "openinference.span.kind" => "AGENT", "openai.span.type" => "agent", "gen_ai.operation.name" => "invoke_agent",
                   "gen_ai.agent.name" => "TestTraceable::Support", "input.value" => "why?", "gen_ai.request.model" => "gpt-4o",
                   "agent.turns" => 1, "output.value" => "an answer" }, found.attributes)
  end

  def test_names_and_kinds
    start
    { Named => :run, SubSupport => :other, WeatherTool => nil, Plain => "run", Class.new(Plain) => :anonymous }.each do |of, method|
      of.new.with_tracing(method) {}
    end
    assert_equal %w[run.workflow.tool.search run.workflow.agent.TestTraceable::SubSupport.other run.workflow.tool.TestTraceable::WeatherTool
                    run.workflow.pipeline.TestTraceable::Plain run.workflow.pipeline.anonymous], spans.map(&:name)
    assert_equal %w[TOOL AGENT TOOL CHAIN CHAIN], spans.map { |span| span.attributes["openinference.span.kind"] }
    assert_equal "search", spans.first.attributes["gen_ai.tool.name"]
  end

  def test_a_class_may_say_anew_what_it_is
    start
    changing = Class.new { include Spanring::Traceable }
    changing.new.with_tracing(:run) {}
    changing.trace_as(:llm, name: "model")
    changing.new.with_tracing(:run) {}
    assert_equal %w[run.workflow.component run.workflow.llm.model], spans.map(&:name)
  end

  def test_an_open_span_of_the_same_component_and_method_goes_on
    start
    support = Support.new
    support.with_tracing(:run, first: 1) do |span|
      assert_same(span, support.with_tracing(:run, second: 2) { |again| again })
      assert_same(span, support.with_tracing("run") { |again| again })
      assert_same(span, support.with_tracing { |again| again })
      refute_same(span, support.with_tracing(:other) { |other| other })
      refute_same(span, Support.new.with_tracing(:run) { |other| other })
    end
    support.with_tracing(:run) {}
    found = spans
    assert_equal [1, 2], found.first.attributes.values_at("first", "second")
    assert_equal 4, found.size
    assert_equal [found.first.span_id] * 2, found[1..2].map(&:parent)
    assert_nil found.last.parent
  end

  def test_a_span_of_another_fiber_or_thread_is_not_reused
    start
    support = Support.new
    support.with_tracing(:run) do |span|
      Thread.new { support.with_tracing(:run) { |own| refute_same span, own } }.join
      Fiber.new { support.with_tracing(:run) { |own| refute_same span, own } }.resume
    end
    assert_equal 3, spans.size
  end

  def test_an_ended_span_is_not_reused
    start
    support = Support.new
    support.with_tracing(:run) do |span|
      span.end
      support.with_tracing(:run) { |other| refute_same span, other }
    end
    assert_equal 2, spans.size
  end

  def test_errors_are_recorded_and_go_on
    start
    error = assert_raises(RuntimeError) { Plain.new.with_tracing(:fail) { raise "no" } }
    assert_equal "no", error.message
    found = one("run.workflow.pipeline.TestTraceable::Plain.fail")
    assert_equal [2, "RuntimeError: no"], found.status.values_at("code", "message")
    assert_equal ["exception"], found.events.map(&:first)
  end

  def test_however_the_block_is_left_the_span_ends
    start
    plain = Plain.new
    catch(:out) { plain.with_tracing(:throw) { throw :out } }
    [1].each { plain.with_tracing(:break) { break } }
    leave_by_return(plain)
    assert_raises(Timeout::Error) { Timeout.timeout(0.05) { plain.with_tracing(:timeout) { sleep } } }
    Thread.new { plain.with_tracing(:kill) { Thread.current.kill } }.join
    assert_nil Spanring.current_span
    assert_equal %w[break kill return throw timeout], spans.map { |span| span.name[/\w+\z/] }.sort
  end

  def leave_by_return(plain)
    plain.with_tracing(:return) { return }
  end

  class Failing
    include Spanring::Traceable

    def collect_span_attributes = raise("before")
    def collect_result_attributes(_) = raise("after")
  end

  class Wrong
    include Spanring::Traceable

    def collect_span_attributes = 7
  end

  def test_errors_of_hooks_are_the_spans
    start
    assert_equal :value, Failing.new.with_tracing(:run) { :value }
    assert_equal :value, Wrong.new.with_tracing(:run) { :value }
    failing, wrong = spans
    assert_equal(%w[before after], failing.events.map { |_, attributes| attributes["exception.message"] })
    assert_equal 0, failing.status.fetch("code", 0)
    assert_equal(["TypeError"], wrong.events.map { |_, attributes| attributes["exception.type"] })
  end

  def test_hooks_and_costly_values_are_for_spans_that_record
    start(sampler: "always_off")
    support = Support.new
    asked = []
    support.define_singleton_method(:collect_span_attributes) { asked << :before }
    support.define_singleton_method(:collect_result_attributes) { |_| asked << :after }
    assert_equal("an answer", support.run("?") { support.trace_if_sampled { asked << :costly } })
    assert_empty asked
  end

  def test_trace_if_sampled_has_the_current_span
    start
    plain = Plain.new
    assert_nil plain.trace_if_sampled { flunk }
    plain.with_tracing(:run) { |span| assert_equal :value, (plain.trace_if_sampled { |current| assert_same span, current; :value }) }
    assert_equal 1, spans.size
  end

  def test_without_a_pipeline_it_runs
    assert_equal "an answer", Support.new.run("?")
  end

  def test_methods_may_be_called_anything
    start(max_spans: 5000)
    plain = Plain.new
    1000.times { |number| plain.with_tracing("operation_#{number}") {} }
    found = spans.map(&:name)
    assert_equal 1000, found.uniq.size
    assert_includes found, "run.workflow.pipeline.TestTraceable::Plain.operation_999"
    assert_operator Plain.instance_variable_get(:@trace_shapes).size, :<=, 256
  end
end
