# frozen_string_literal: true

# puma and unicorn with preloading, under load, while their workers are restarted: every span of every answer is there.
#
# SPANRING_TEST_REQUESTS says how many answers there are to be.
require_relative "helper"
require "net/http"
require "socket"

class TestServers < Case
  CLIENTS = 4
  REQUESTS = Integer(ENV.fetch("SPANRING_TEST_REQUESTS", "800"))
  APPLICATION = File.join(__dir__, "servers.ru")
  PATIENCE = 90

  def free_port
    server = TCPServer.new("127.0.0.1", 0)
    server.addr[1]
  ensure
    server.close
  end

  def launch(*command, configuration)
    file = File.join(@folder, "config.rb")
    File.write(file, configuration)
    @log = File.join(@folder, "log")
    path = ["-I", File.dirname($LOADED_FEATURES.grep(%r{/spanring\.rb\z}).first)]
    @master = spawn({ "SPANRING_DIR" => @place, "RUBYOPT" => path.join }, *command, chdir: @folder, %i[out err] => @log)
  end

  def said = File.exist?(@log) ? File.read(@log) : ""

  def patiently(what)
    Timeout.timeout(PATIENCE, nil, "#{what}\n#{said}") { Thread.pass until yield }
  end

  # The process ID that answered; nil if nobody did.
  def ask(number)
    Net::HTTP.start("127.0.0.1", @port, open_timeout: 20, read_timeout: 60) do |http|
      http.max_retries = 0 # a second request would make a second tree
      answer = http.get("/#{number}", "traceparent" => format("00-%032x-%016x-01", number + 1, 7))
      answer.is_a?(Net::HTTPOK) ? Integer(answer.body) : nil
    end
  rescue SystemCallError, IOError, Net::OpenTimeout, Net::ReadTimeout
    nil
  end

  # Asks until there are so many answers, and restarts workers after each tenth of them.
  def load_and_restart
    numbers = Queue.new
    answered = {}
    mutex = Mutex.new
    step = REQUESTS / 10
    restarts = 0
    next_number = 0
    clients = Array.new(CLIENTS) do
      Thread.new do
        until answered.size >= REQUESTS
          number = mutex.synchronize { next_number += 1 }
          pid = ask(number)
          next unless pid

          due = mutex.synchronize do
            answered[number] = pid
            answered.size / step > restarts && (restarts += 1)
          end
          numbers << pid if due
        end
        numbers << nil
      end
    end
    left = CLIENTS
    while left.positive?
      pid = numbers.pop
      pid ? yield(pid) : left -= 1
    end
    clients.each(&:join)
    answered
  end

  def stop(signal)
    Process.kill(signal, @master)
    Timeout.timeout(PATIENCE) { Process.wait(@master) }
    @master = nil
  end

  def teardown
    if @master
      Process.kill(:KILL, @master)
      Process.wait(@master)
    end
    super
  end

  def check(answered)
    found = recorded
    assert_equal found.size, found.map(&:span_id).uniq.size
    assert_operator found.count { |span| span.name == "load" }, :>=, 1
    by_id = found.to_h { |span| [span.span_id, span] }
    of = found.group_by { |span| span.attributes["n"] }
    whole = [["request", nil, "0000000000000007"], ["step", 0, "work"], ["step", 1, "work"], ["thread", nil, "request"], ["work", nil, "request"]]
    odd = answered.reject do |number, pid|
      tree = of.fetch(number, [])
      shape = tree.map { |span| [span.name, span.attributes["step"], by_id[span.parent]&.name || span.parent] }
      shape.sort_by(&:inspect) == whole.sort_by(&:inspect) && tree.all? { |span| span.attributes["pid"] == pid && span.trace_id == format("%032x", number + 1) }
    end
    assert_empty odd.first(3), "#{odd.size} of #{answered.size}: #{odd.keys.first(3).map { |number| of.fetch(number, []).map(&:name) }}\n#{said[-3000..] || said}"
    assert_operator answered.values.uniq.size, :>, 4, "workers were not restarted"
  end

  def test_puma
    skip "puma is not there" unless Gem::Specification.find_all_by_name("puma").any?
    @port = free_port
    launch("puma", "-C", "config.rb", APPLICATION, <<~RUBY)
      bind "tcp://127.0.0.1:#{@port}"
      workers 2
      threads 1, 4
      preload_app!
    RUBY
    patiently("puma does not answer") { ask(0) }
    answered = load_and_restart { |pid| Process.kill(:TERM, pid) }
    stop(:TERM)
    check(answered)
  end

  def test_puma_restarted_whole
    skip "puma is not there" unless Gem::Specification.find_all_by_name("puma").any?
    @port = free_port
    launch("puma", "-C", "config.rb", APPLICATION, "bind 'tcp://127.0.0.1:#{@port}'\nthreads 1, 4\n")
    patiently("puma does not answer") { ask(0) }
    answered = (1..50).to_h { |number| [number, ask(number)] }
    # An exec of the process that has spans.
    Process.kill(:USR2, @master)
    patiently("puma does not restart") { said.scan("* Restarting...").any? && said.scan("Use Ctrl-C to stop").size > 1 }
    stop(:TERM)
    found = recorded
    assert_equal(2, found.count { |span| span.name == "load" })
    assert(answered.each_key.all? { |number| found.count { |span| span.attributes["n"] == number } == 5 })
  end

  def test_unicorn
    skip "unicorn is not there" unless system("unicorn", "--version", %i[out err] => File::NULL)
    @port = free_port
    launch("unicorn", "-c", "config.rb", APPLICATION, <<~RUBY)
      listen "127.0.0.1:#{@port}"
      worker_processes 3
      preload_app true
      timeout 60
    RUBY
    patiently("unicorn does not answer") { ask(0) }
    # QUIT and TERM end a worker after, or within, a request; HUP restarts all.
    turn = 0
    answered = load_and_restart { |pid| (turn += 1) % 3 == 0 ? Process.kill(:HUP, @master) : Process.kill(:QUIT, pid) rescue Errno::ESRCH }
    stop(:QUIT)
    check(answered)
  end

  def test_unicorn_whose_workers_are_ended_at_once
    skip "unicorn is not there" unless system("unicorn", "--version", %i[out err] => File::NULL)
    @port = free_port
    launch("unicorn", "-c", "config.rb", APPLICATION, "listen '127.0.0.1:#{@port}'\nworker_processes 3\npreload_app true\n")
    patiently("unicorn does not answer") { ask(0) }
    # TERM makes a worker exit! within whatever it does.
    answered = load_and_restart { |pid| Process.kill(:TERM, pid) rescue Errno::ESRCH }
    stop(:TERM)
    check(answered)
  end
end
