# frozen_string_literal: true

# The program of the fork storm in Ruby: forks.rb DIR ENDPOINT FORKS, run by ffi/tests/storm.py, which says what it prints.
require "spanring"

AT_ONCE = 4
SPANS = 30
$process = 0

def record(number, under: false)
  Spanring.span("forked", process: $process, number: number) { |span| span.set(under: -> { 1 }) if under }
end

def keep_recording
  number = 0
  until $stopped
    Spanring.span("outer", process: $process) { record(number, under: true) }
    number += 1
    sleep(0.002)
  end
end

# All is delivered, and the counts say so.
def say(spans)
  Spanring.flush(nil)
  stats = Spanring.stats
  right = stats.values_at("created", "sealed", "resident") == [spans, spans, 0] && stats["dropped"].values.sum.zero?
  right &&= stats["sinks"].all? do |sink|
    sink["sealed"] == spans && sink["delivered"] == spans + sink["adopted"] && sink["dropped"].values.sum.zero? &&
      sink["queued"].zero? && sink["spooled"].zero?
  end
  raise stats.inspect unless right

  $stdout.syswrite("#{$process} #{spans}\n")
end

# In a child, it says so if it hangs, and the storm fails.
def in_time
  Thread.new do
    sleep(120)
    warn("process #{$process} hangs")
    Process.kill(:KILL, Process.pid)
  end
end

# What a child does. Its parent's span is current.
def record_all(number)
  $process = number
  SPANS.times { |count| record(count, under: true) }
end

def record_in_threads(number)
  $process = number
  parent = Spanring.current_span
  threads = Array.new(3) do
    Thread.new { (SPANS / 3).times { Spanring.span("in a thread", nil, :internal, parent, process: $process, under: 1) {} } }
  end
  threads.each(&:join)
end

def child(number)
  in_time
  way = number % 6
  # By a child that had recorded nothing yet.
  forked = fork { in_time; record_all(-number); say(SPANS); exit!(0) } if way == 1
  way == 2 ? record_in_threads(number) : record_all(number)
  forked = fork { in_time; record_all(-number); say(SPANS) } if way == 3
  say(SPANS)
  raise "its own child failed" if forked && !Process.wait2(forked).last.success?
  exit!(0) unless [3, 4, 5].include?(way)
  Spanring.shutdown if way == 5
  exit(0)
end

def wait(child) = Process.wait2(child).last.success? || raise("child #{child} failed")

place, endpoint, forks = ARGV
Spanring.start(dir: place, endpoint: endpoint, ignore_environment: true)
threads = Array.new(4) { Thread.new { keep_recording } }
running = []
(1..Integer(forks)).each do |number|
  Spanring.span("fork", process: $process) { running << fork { child(number) } }
  wait(running.shift) if running.size == AT_ONCE
end
running.each { |pid| wait(pid) }
$stopped = true
threads.each(&:join)
say(Spanring.stats["created"])
