# frozen_string_literal: true

# What puma and unicorn serve in test_servers.rb: each request makes a small tree of spans, across threads and fibers.
require "spanring"

# Preloaded: in the parent, which has spans, too.
Spanring.start(service_name: "server")
Spanring.span("load", pid: $$) {}

run(lambda do |env|
  number = Integer(env["PATH_INFO"].delete_prefix("/"))
  Spanring.attach(env) do
    Spanring.span("request", { n: number, pid: $$ }, :server) do
      context = Spanring.context
      thread = Thread.new { Spanring.attach(context) { Spanring.span("thread", n: number, pid: $$) {} } }
      Spanring.span("work", n: number, pid: $$) do
        steps = Enumerator.new { |out| 2.times { |step| out << step } }
        2.times { steps.next.then { |step| Spanring.span("step", n: number, step: step, pid: $$) {} } }
      end
      thread.join
    end
  end
  [200, { "Content-Type" => "text/plain" }, [$$.to_s]]
end)
