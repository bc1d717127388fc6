use super::Exit;
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {}
pub(super) fn run(_arguments: &Arguments) -> Exit {
    Exit::Unavailable
}
