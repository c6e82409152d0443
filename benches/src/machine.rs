//! What machine the numbers are from.

/// Processor, cores, kernel and clock, in a line.
pub fn describe() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let cpu = cpu
        .lines()
        .find_map(|line| {
            line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim())
        })
        .unwrap_or("unknown processor");
    let source = read("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    format!(
        "{cpu}, {} cores, {} {}, clock source {}",
        crate::measure::cores(),
        std::env::consts::OS,
        read("/proc/sys/kernel/osrelease").trim(),
        if source.is_empty() { "unknown" } else { source.trim() },
    )
}
