//! The `hopend` command.

fn main() -> std::process::ExitCode {
    hopend::cli::main(std::env::args_os())
}
