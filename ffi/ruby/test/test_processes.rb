# frozen_string_literal: true

# Forks, and the ways in which a process ends.
require_relative "helper"

class TestProcesses < Case
  SPANS = <<~RUBY
    begin_spans
    1000.times { Spanring.span("span", key: 1) {} }
  RUBY

  EXITS = {
    "normal" => ["", 0],
    "exit" => ["exit 3", 3],
    "uncaught" => ["raise ArgumentError, 'uncaught'", 1],
    "uncaught in the block" => ["Spanring.span('left') { raise ArgumentError, 'uncaught' }", 1],
    "exit in the block" => ["Spanring.span('left') { exit 4 }", 4],
    "abort" => ["abort", 1],
    "shut down" => ["Spanring.shutdown", 0],
    "exit!" => ["exit!(5)", 5],
    "Process.exit!" => ["Process.exit!(true)", 0],
    "Kernel.exit!" => ["Kernel.exit!", 1],
    "exit! in the block" => ["Spanring.span('open') { Spanring.span('left') {}; exit!(0) }", 0],
    "exec" => ["exec('true')", 0],
    "Process.exec" => ["Process.exec('/bin/sh', '-c', 'exit 7')", 7],
    "exec with an environment" => ["exec({ 'STATUS' => '8' }, 'exit $STATUS', out: :err)", 8],
    "TERM" => ["Process.kill(:TERM, $$); sleep", -15],
    "INT" => ["Process.kill(:INT, $$); sleep", -2],
    "HUP" => ["Process.kill(:HUP, $$); sleep", -1],
    "TERM in the block" => ["Spanring.span('left') { Process.kill(:TERM, $$); sleep }", -15],
    "a signal that is raised" => ["raise SignalException, 'TERM'", -15],
    "trap and exit" => ["trap(:TERM) { Spanring.span('left') {}; exit 6 }; Process.kill(:TERM, $$); sleep", 6],
    "trap and exit!" => ["trap(:TERM) { Spanring.span('left') {}; exit!(6) }; Process.kill(:TERM, $$); sleep", 6],
    "in a thread" => ["inside = Queue.new; Thread.new { Spanring.span('left') { inside << 1; sleep } }; inside.pop", 0],
    "in a thread, TERM" => ["inside = Queue.new; Thread.new { Spanring.span('left') { inside << 1; sleep } }; inside.pop; Process.kill(:TERM, $$); sleep", -15],
    "a thread that aborts" => ["Thread.abort_on_exception = true; Thread.new { Spanring.span('left') { raise 'x' } }; sleep", 1],
    "at_exit" => ["at_exit { Spanring.span('left') {} }", 0],
    "at_exit, TERM" => ["at_exit { Spanring.span('left') {} }; Process.kill(:TERM, $$); sleep", -15],
    "at_exit that fails" => ["at_exit { Spanring.span('left') { raise 'late' } }", 1],
    "a finalizer" => ["ObjectSpace.define_finalizer(kept = Object.new, proc { Spanring.span('left') {} })", 0],
    "a span that is never ended" => ["$kept = Spanring.start_span('left')", 0],
    "a span that is never ended, TERM" => ["$kept = Spanring.start_span('left'); Process.kill(:TERM, $$); sleep", -15],
    "a fiber that never goes on" => ["$fiber = Fiber.new { Spanring.span('left') { Fiber.yield } }; $fiber.resume", 0],
  }.freeze

  EXITS.each do |way, (text, status)|
    define_method("test_everything_is_there_after_#{way.sub("!", "_at_once").gsub(/\W+/, '_')}") do
      script(SPANS + text, status: status)
      found = names.tally
      assert_equal 1000, found.delete("span")
      assert_equal text.include?("left") ? { "left" => 1 } : {}, found
    end
  end

  def test_at_exit_that_was_there_before
    file = File.join(@folder, "before.rb")
    File.write(file, "at_exit { Spanring.span('left') {} }\n")
    ["", "Process.kill(:TERM, $$); sleep"].zip([0, -15]) do |text, status|
      script(SPANS + text, status: status, options: ["-r", file])
    end
    assert_equal 2, names.count("left")
  end

  def test_a_kill_loses_what_was_not_flushed_and_no_more
    script(<<~RUBY, status: -9)
      begin_spans
      20.times { |number| Spanring.span("span", number: number) {}; Spanring.flush }
      Process.kill(:KILL, $$)
      sleep
    RUBY
    assert_equal 20, names.size
  end

  def test_with_flush_each_span_a_kill_loses_nothing
    script(<<~RUBY, status: -9)
      Spanring.start(dir: PLACE, ignore_environment: true, flush_each_span: true)
      20.times { |number| Spanring.span("span", number: number) {} }
      Process.wait(fork { Spanring.span("child") {}; Process.kill(:KILL, $$); sleep })
      Process.kill(:KILL, $$)
      sleep
    RUBY
    assert_equal({ "span" => 20, "child" => 1 }, names.tally)
  end

  def test_exit_at_once_and_exec_in_a_ractor
    { "exit!(7)" => 7, "exec('sh', '-c', 'exit 8')" => 8 }.each do |way, status|
      script("begin_spans\nSpanring.span('span') {}\nRactor.new { #{way} }.take", status: status)
    end
    assert_equal %w[span span], names
  end

  def test_exit_at_once_exits_whatever_stops_its_flush
    script(<<~RUBY, status: 7)
      require "socket"
      require "timeout"
      server = TCPServer.new("127.0.0.1", 0) # never answers
      Spanring.start(endpoint: "http://127.0.0.1:\#{server.addr[1]}", ignore_environment: true, log_level: :fatal)
      Spanring.span("span") {}
      Timeout.timeout(0.3) { exit!(7) }
    RUBY
  end

  def test_an_exec_that_fails_leaves_all_as_it_was
    script(<<~RUBY)
      begin_spans
      Spanring.span("outer") do |outer|
        begin
          exec("/there/is/no/such/program")
        rescue Errno::ENOENT
          raise unless Spanring.current_span.equal?(outer)
          Spanring.span("after") {}
        end
      end
    RUBY
    assert_equal %w[after outer], names
  end

  def test_daemon
    done = File.join(@folder, "done")
    script(<<~RUBY)
      begin_spans
      Spanring.span("parent") {}
      Process.daemon(true)
      Spanring.span("daemon") {}
      at_exit { Spanring.flush(30); File.write(#{"#{done}.new".inspect}, ""); File.rename(#{"#{done}.new".inspect}, #{done.inspect}) }
    RUBY
    Timeout.timeout(60) { Thread.pass until File.exist?(done) }
    assert_equal %w[daemon parent], names
  end

  def test_a_fork_has_a_pipeline_of_its_own
    script(<<~RUBY)
      begin_spans
      Spanring.span("parent") do
        children = (0...6).map do |number|
          fork do
            Spanring.span("child \#{number}", pid: $$) {}
            case number
            when 0, 1 then exit!(0)
            when 2 then Process.kill(:TERM, $$); sleep
            when 3 then exec("true")
            end
          end
        end
        children.each { |child| Process.wait(child) }
        Spanring.span("after") {}
      end
    RUBY
    found = recorded.to_h { |span| [span.name, span] }
    # exit leaves the block of `parent` in the children, too, where it is not theirs to record.
    assert_equal ["after", *(0...6).map { |number| "child #{number}" }, "parent"], names
    parent = found.delete("parent")
    found.each_value { |span| assert_equal [parent.trace_id, parent.span_id], [span.trace_id, span.parent] }
  end

  def test_forks_from_threads_and_fibers
    script(<<~RUBY)
      begin_spans
      threads = 4.times.map do |number|
        Thread.new do
          Spanring.span("thread", number: number) do
            10.times { Process.wait(fork { Spanring.span("of thread", number: number) {} }) }
          end
        end
      end
      threads.each(&:join)
      Fiber.new { Spanring.span("fiber") { Process.wait(fork { Spanring.span("of fiber") {} }) } }.resume
    RUBY
    found = recorded.group_by(&:name)
    ids = found["thread"].to_h { |span| [span.attributes["number"], span.span_id] }
    assert_equal [4, 40, 1, 1], %w[thread of\ thread fiber of\ fiber].map { |name| found[name].size }
    assert(found["of thread"].all? { |span| span.parent == ids[span.attributes["number"]] })
    assert_equal found["fiber"][0].span_id, found["of fiber"][0].parent
  end

  # Files and a receiver, compared with what each process says that it recorded; ffi/tests/storm is the long form.
  def test_a_hundred_forks_while_threads_record_and_the_flusher_sends
    storm = File.join(ROOT, "ffi/tests/storm.py")
    library = File.dirname($LOADED_FEATURES.grep(%r{/spanring\.rb\z}).first)
    out, status = Open3.capture2e("python3", storm, COMMAND, "1", "100", RbConfig.ruby, "-I", library, File.join(__dir__, "forks.rb"))
    assert status.success?, out
  end

  def test_a_trap_may_have_spans_and_flush
    script(<<~RUBY)
      begin_spans
      count = 0
      trap(:USR1) do
        Spanring.span("handled", key: 1) { |span| span.set(lazy: -> { count += 1 }); Spanring.inject; Spanring.log_fields }
        Spanring.flush
        Spanring.stats
      end
      stop = false
      pid = $$
      sender = Thread.new { until stop do Process.kill(:USR1, pid); sleep 0.0005 end }
      while count < 50
        Spanring.span("work", it: -> { count.to_s }) { |span| raise "mixed" unless Spanring.current_span.equal?(span) }
        Thread.pass
      end
      stop = true
      sender.join
      Spanring.flush
      dropped = Spanring.stats["dropped"].values.sum
      raise "\#{dropped} dropped" unless dropped.zero?
    RUBY
    found = recorded
    handled = found.select { |span| span.name == "handled" }
    assert_operator handled.size, :>=, 50
  end

  def test_flush_lets_other_threads_run_and_can_be_interrupted
    script(<<~RUBY)
      require "timeout"
      # A receiver that never answers.
      require "socket"
      server = TCPServer.new("127.0.0.1", 0)
      Spanring.start(endpoint: "http://127.0.0.1:\#{server.addr[1]}", ignore_environment: true, log_level: :fatal)
      Spanring.span("span") {}
      turns = 0
      stop = false
      other = Thread.new { until stop do turns += 1; sleep 0.001 end }
      begin
        Spanring.flush(1)
        raise "flushed"
      rescue Spanring::Error => error
        raise error unless error.code == 9
      end
      raise turns.to_s unless turns > 20
      begin
        Timeout.timeout(0.3) { Spanring.flush(nil) }
        raise "not interrupted"
      rescue Timeout::Error
        nil
      end
      waiting = Thread.new { Spanring.flush(nil) }
      Thread.pass until waiting.stop?
      waiting.kill.join
      stop = true
      other.join
      Spanring.shutdown(0.1) rescue nil
    RUBY
  end

  def test_a_receiver_that_is_not_there_holds_up_no_exit
    %w[exit! exit].each do |way|
      script("Spanring.start(endpoint: 'http://127.0.0.1:9', max_batch_wait: 1, ignore_environment: true, log_level: :fatal)\n" \
             "Spanring.span('span') {}\n#{way}(0)")
    end
  end

  def test_other_native_gems_beside_it
    script(<<~RUBY)
      begin_spans
      %w[nio4r raindrops bigdecimal zlib openssl sdbm ripper].each do |name|
        require name
      rescue LoadError
        nil
      end
      2000.times do |number|
        Spanring.span("span", number: number) { Zlib.inflate(Zlib.deflate("x" * 1000)) if defined?(Zlib) }
      end
    RUBY
    assert_equal 2000, names.size
  end

  def test_the_extension_shows_one_symbol
    so = $LOADED_FEATURES.grep(%r{/spanring/spanring\.so\z}).first
    shown, = Open3.capture2("nm", "-D", "--defined-only", so)
    assert_equal ["Init_spanring"], shown.lines.map { |line| line.split.last }
    flags, = Open3.capture2("readelf", "-d", so)
    assert_includes flags, "NODELETE"
  end
end
