//! The peers' packages and the machine.

use std::process::Command;

const PACKAGES: [&str; 4] = ["haproxy", "stunnel4", "nginx-core", "libnginx-mod-stream"];

/// Installs what is missing, as Debian has it.
pub fn install() -> Result<(), String> {
    let missing: Vec<_> = PACKAGES
        .iter()
        .filter(|package| !is_installed(package))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("installing {missing:?}");
    let mut apt = Command::new("apt-get");
    apt.args(["install", "-q", "-y", "--no-install-recommends"])
        .args(&missing)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // The packages' own services are not wanted.
        .env("RUNLEVEL", "1");
    match apt.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "apt-get install: {}",
            String::from_utf8_lossy(&output.stderr)
        )),
        Err(error) => Err(format!("apt-get: {error}")),
    }
}

fn is_installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["-W", "-f=${Status}", package])
        .output()
        .is_ok_and(|output| output.stdout.ends_with(b"install ok installed"))
}

/// What all of it ran on.
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let cpu = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown CPU", |(_, model)| model)
        .to_owned();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let versions: Vec<_> = PACKAGES
        .iter()
        .filter_map(|package| {
            let output = Command::new("dpkg-query")
                .args(["-W", "-f=${Package} ${Version}", package])
                .output()
                .ok()?;
            String::from_utf8(output.stdout).ok()
        })
        .collect();
    format!(
        "{cores} cores of {cpu}, Linux {}, {}",
        kernel(&read("/proc/sys/kernel/osrelease")),
        versions.join(", ")
    )
}

/// The version of a kernel, whoever built it.
fn kernel(release: &str) -> String {
    release.splitn(3, '.').take(2).collect::<Vec<_>>().join(".")
}
