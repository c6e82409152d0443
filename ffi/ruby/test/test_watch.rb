# frozen_string_literal: true

require_relative "helper"

# Alerts, the tracking of errors, redaction, and subscriptions.
class TestWatch < Case
  def alerts(count)
    found = []
    finish = Process.clock_gettime(Process::CLOCK_MONOTONIC) + 60
    found.concat(Spanring.alerts["alerts"]) while found.size < count && Process.clock_gettime(Process::CLOCK_MONOTONIC) < finish
    found
  end

  def test_alerts_errors_and_redaction
    start(alerts: true, alert_interval: 0.05, track_errors: true, redact: "pass*")
    30.times do |number|
      assert_raises(ArgumentError) { Spanring.span("buy", password: "hunter2") { raise ArgumentError, "order #{number} is lost" } }
    end
    Spanring.flush
    alert, = alerts(1)
    assert_equal ["error_rate", "warning", false], alert.values_at("type", "severity", "over")
    assert_equal [1, 0.05], alert.values_at("value", "limit")
    assert_equal({ "alerts" => [], "dropped" => 0, "webhook" => { "delivered" => 0, "failures" => 0, "dropped" => 0 } }, Spanring.alerts)
    group, = Spanring.errors["errors"]
    assert_equal ["buy", "ArgumentError", "order # is lost", 30], group.values_at("name", "type", "message", "count")
    assert_equal(["[REDACTED]"], spans.map { |span| span.attributes["password"] }.uniq)
  end

  def test_a_subscription_gives_what_is_recorded
    start
    Spanring.subscribe do |subscription|
      assert_nil subscription.next(0)
      Spanring.span("parent", rows: 7, text: "é") do |parent|
        parent.event("seen", at: 1)
        Spanring.span("child") {}
      end
      Spanring.flush
      known = spans.to_h { |span| [span.name, span] }
      2.times do
        span = subscription.next(60)
        same = known.delete(span["name"])
        assert_equal [same.trace_id, same.span_id, same.parent], span.values_at("trace_id", "span_id", "parent_span_id")
        assert_equal same.attributes, span["attributes"]
      end
      assert_nil subscription.next(0.01)
      assert_equal 0, subscription.dropped
      subscription.close
      assert_nil subscription.next
      assert_empty subscription.to_a
    end
  end

  def test_a_subscription_is_taken_from_on_a_thread_until_the_pipeline_ends
    start(batch_size: 50)
    subscription = Spanring.subscribe(max_spans: 100_000)
    taking = Thread.new { subscription.map { |span| span["attributes"]["number"] } }
    1000.times { |number| Spanring.span("numbered", number: number) {} }
    Spanring.shutdown(30)
    assert_equal (0...1000).to_a, taking.value
  end

  def test_who_takes_nothing_loses_batches_and_nobody_else_does
    start(batch_size: 10)
    subscription = Spanring.subscribe(max_spans: 20)
    10.times do
      10.times { Spanring.span("many") {} }
      Spanring.flush
    end
    came = 0
    came += 1 while subscription.next(0)
    assert_equal 100, came + subscription.dropped
    assert_operator came, :<, 30
    assert_equal 100, spans.size
    subscription.close
  end

  def test_what_stops_a_thread_that_waits_loses_no_span
    start
    subscription = Spanring.subscribe
    20.times do |number|
      waiting = Thread.new do
        subscription.next
      rescue Timeout::Error
        nil
      end
      Thread.pass until waiting.stop?
      waiting.raise(Timeout::Error)
      # As a rule it comes before the thread is back in Ruby.
      Spanring.span("numbered", number: number) {}
      Spanring.flush
      span = waiting.value || subscription.next(60)
      assert_equal number, span&.dig("attributes", "number")
    end
    assert_nil subscription.next(0)
    subscription.close
  end

  def test_a_thread_that_waits_can_be_killed
    start
    subscription = Spanring.subscribe
    waiting = Thread.new { subscription.next }
    Thread.pass until waiting.stop?
    waiting.kill
    assert waiting.join(60)
    subscription.close
  end
end
