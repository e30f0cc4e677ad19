# The Vagrantfile, evaluated without Vagrant: which machines, addresses, boxes and provisioning lines come out of each mode and provider.
#
#   ruby tests/vagrant.rb
#
# Each case is evaluated in a process of its own, in a copy of what the Vagrantfile reads, with a recorder in Vagrant's place.

require "fileutils"
require "json"
require "rbconfig"
require "tmpdir"

ROOT = File.expand_path("..", __dir__)

if ARGV[0] == "evaluate"
  RbConfig::CONFIG["host_cpu"] = ENV.fetch("STUB_CPU")
  PROVIDER = ENV.fetch("STUB_PROVIDER")
  # Whatever is set or called is written down; blocks get a recorder of their own.
  class Recorder
    attr_reader :set, :calls

    def initialize
      @set = {}
      @calls = []
    end

    def vm = @vm ||= Recorder.new

    def define(name)
      node = Recorder.new
      yield node
      @calls << ["define", name, node]
    end

    def provider(name)
      return unless name == PROVIDER

      settings = Recorder.new
      override = Recorder.new
      override.instance_variable_set(:@vm, self)
      yield settings, override
      @calls << ["provider", name, settings.set]
    end

    def method_missing(name, *args)
      if name.end_with?("=")
        @set[name.to_s.chomp("=")] = args.first
      else
        @calls << [name.to_s, *args]
      end
    end

    def respond_to_missing?(*) = true
  end

  module Vagrant
    def self.configure(_version)
      config = Recorder.new
      yield config
      vm = config.vm
      machines = vm.calls.select { |c| c[0] == "define" }.map do |_, name, node|
        { name: name, hostname: node.vm.set["hostname"], calls: node.vm.calls }
      end
      provider = vm.calls.find { |c| c[0] == "provider" }&.last
      folders = vm.calls.select { |c| c[0] == "synced_folder" }
      puts JSON.generate(vm: vm.set, machines: machines, provider: provider, folders: folders)
    end
  end

  # In ssh-keygen's place.
  def system(program, *args)
    raise "the Vagrantfile runs #{program}" unless program == "ssh-keygen"

    ["", ".pub"].each { |end_| File.write(args.last + end_, "key") }
  end

  load File.join(Dir.pwd, "Vagrantfile")
  exit
end

# The output of one evaluation, or the message with which it ends.
def evaluated(env, dir)
  env = { "MODE" => nil, "PREFIX" => nil, "RAM" => nil, "CLASS_BUNDLE" => nil, "STUB_CPU" => "x86_64", "STUB_PROVIDER" => "virtualbox" }.merge(env)
  IO.popen(env, [RbConfig.ruby, File.expand_path(__FILE__), "evaluate", { chdir: dir, err: %i[child out] }], &:read)
end

$failed = 0
def same(what, got, wanted)
  return if got == wanted

  $failed += 1
  warn "#{what}:\n  is     #{got.inspect}\n  wanted #{wanted.inspect}"
end

THREE = {
  "controller-0" => %w[10.240.0.10 10.0.0.5 10.2.0.9], "controller-1" => %w[10.240.0.11 10.0.0.2],
  "controller-2" => %w[10.240.0.12 10.0.0.3], "spare" => %w[10.240.0.13 10.0.0.4], "api" => %w[10.240.0.20]
}.freeze
WANTED = { "one" => THREE.slice("controller-0"), "three" => THREE, "five" => THREE.merge("spare-2" => %w[10.240.0.14]) }.freeze
PORTS = { "controller-0" => 2710, "controller-1" => 2711, "controller-2" => 2712, "spare" => 2713, "spare-2" => 2714, "api" => 2715 }.freeze

# `from` is where the machines come from: the network, or a bundle with boxes or without.
def check(mode, provider, cpu, from, prefix, dir)
  bundle = from != "network"
  arch = cpu == "x86_64" ? "amd64" : "arm64"
  where = "#{mode}, #{provider}, #{arch}, #{from}"
  env = { "MODE" => mode, "PREFIX" => prefix, "STUB_CPU" => cpu, "STUB_PROVIDER" => provider, "CLASS_BUNDLE" => bundle ? from : nil }
  text = evaluated(env, dir)
  got = JSON.parse(text)
  machines = got["machines"].to_h { |m| [m["hostname"], m] }
  same("#{where}: machines", machines.keys.sort, WANTED[mode].keys.sort)
  same("#{where}: names", got["machines"].map { |m| m["name"] }, got["machines"].map { |m| prefix + m["hostname"] })
  same("#{where}: memory and processors", got["provider"].slice("memory", "cpus"), { "memory" => mode == "one" ? 1024 : 512, "cpus" => 1 })
  same("#{where}: nothing is synced", got["folders"], [["synced_folder", ".", "/vagrant", { "disabled" => true }]])
  same("#{where}: no look for updates", got["vm"]["box_check_update"], false)
  has_box = from == "class"
  box = has_box ? "etcd-lab" : { "amd64" => "debian/bookworm64", "arm64" => "bento/debian-12" }[arch]
  same("#{where}: box", got["vm"]["box"], box)
  url = "file://#{File.realpath(dir)}/class/boxes/etcd-lab-#{provider}-#{arch}.box"
  same("#{where}: the box's file", got["vm"]["box_url"], has_box ? url : nil)
  machines.each { |name, machine| check_machine("#{where}: #{name}", mode, name, machine, prefix, bundle ? "#{from}/bin" : "target/static", arch) }
end

def check_machine(where, mode, name, machine, prefix, programs, arch)
  nets = machine["calls"].select { |c| c[0] == "network" && c[1] == "private_network" }.map { |c| c[2] }
  same("#{where}: addresses", nets.map { |n| n["ip"] }, WANTED[mode][name])
  wanted = nets.map { |n| "#{prefix}etcd-lab-#{n['ip'].split('.').first(2).join('-')}" }
  same("#{where}: internal networks", nets.map { |n| n["virtualbox__intnet"] }, wanted)
  same("#{where}: isolated networks", nets.map { |n| n.values_at("libvirt__network_name", "libvirt__dhcp_enabled", "libvirt__forward_mode") },
       wanted.map { |net| [net, false, "none"] })
  ssh = machine["calls"].find { |c| c[1] == "forwarded_port" }[2]
  same("#{where}: ssh", ssh.values_at("guest", "host", "host_ip"), [22, PORTS[name], "127.0.0.1"])
  provisions = machine["calls"].select { |c| c[0] == "provision" }
  line = provisions.last[2]["inline"]
  told = "node setup --mode #{mode} --name #{name} --ips #{WANTED[mode][name].join(',')}#{mode == 'one' ? '' : ' --key /tmp/etcd-lab-key'} "
  same("#{where}: provisioning", line.include?(told), true)
  files = provisions.select { |c| c[1] == "file" }.map { |c| c[2].values_at("source", "destination") }
  same("#{where}: the program", [files[0][0].end_with?("/#{programs}/#{arch}/etcd-lab"), files[0][1]], [true, "/tmp/etcd-lab"])
  keys = mode == "one" ? [] : ["/tmp/etcd-lab-key", "/tmp/etcd-lab-key.pub"]
  same("#{where}: the key", files.drop(1).map(&:last), keys)
  # Looked for wherever the box is from, before `node setup` needs them; downloaded only if one is missing.
  same("#{where}: packages first", provisions.first[2]["name"], "packages")
  same("#{where}: packages that are there are not downloaded", provisions.first[2]["inline"].to_s.match?(/\Adpkg -s .*nftables.* \|\| \{ apt-get /), true)
end

Dir.mktmpdir do |dir|
  FileUtils.cp(File.join(ROOT, "Vagrantfile"), dir)
  FileUtils.mkdir_p(%w[packaging class/boxes].map { |d| File.join(dir, d) })
  FileUtils.cp(File.join(ROOT, "packaging/box.packages"), File.join(dir, "packaging"))
  %w[target/static class/bin without-boxes/bin].product(%w[amd64 arm64]).each do |d, a|
    FileUtils.mkdir_p(File.join(dir, d, a))
    File.write(File.join(dir, d, a, "etcd-lab"), "")
  end
  %w[virtualbox libvirt].product(%w[amd64 arm64]).each { |p, a| File.write(File.join(dir, "class/boxes/etcd-lab-#{p}-#{a}.box"), "") }
  cases = %w[one three five].product(%w[virtualbox libvirt], %w[x86_64 aarch64], %w[network class without-boxes])
  cases.each { |mode, provider, cpu, from| check(mode, provider, cpu, from, mode == "three" ? "blue-" : "", dir) }

  { { "MODE" => "seven" } => "one, three or five", { "RAM" => "100" } => "a machine needs 384",
    { "CLASS_BUNDLE" => "nowhere" } => "no bin/amd64/etcd-lab in it" }.each do |env, words|
    same("#{env}: said", evaluated(env, dir).include?(words), true)
  end

  # What `node setup` writes into /etc/hosts is the same table.
  table = File.read(File.join(ROOT, "src/lab/setup/table.rs"))
  names = table.scan(/\("([a-z0-9-]+)", "(10\.[0-9.]+)", "(one|three|five)"\)/).map { |name, ip, least| [name, ip, least] }
  names << ["controller-0", "10.240.0.10", "one"] if table.include?('(FIRST, "10.240.0.10", "one")')
  wanted = WANTED["five"].map { |name, ips| [name, ips[0], %w[one three five].find { |m| WANTED[m].key?(name) }] }
  same("the table of node setup", names.sort, wanted.sort)
  puts "the Vagrantfile: #{cases.length} cases, #{$failed} differences"
end
exit($failed.zero? ? 0 : 1)
