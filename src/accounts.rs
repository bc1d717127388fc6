//! Users and viewers whose account does not resolve: hopend asks the account database again until it
//! does.

use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::config::{AccountDatabase, LeftOut, LeftOutCause};

/// The first pause between two attempts; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Returns once the account of each of these is known. Whoever waits for one of them is served from
/// then on, without a reload.
pub(crate) async fn resolve(left_out: Vec<LeftOut>, accounts: AccountDatabase) {
    let mut pause = FIRST_PAUSE;
    let mut waiting = left_out;
    loop {
        waiting.retain(|left_out| {
            matches!(left_out.cause, LeftOutCause::AccountUnknown(_)) && !left_out.is_over()
        });
        if waiting.is_empty() {
            return;
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        for left_out in &waiting {
            let LeftOutCause::AccountUnknown(account) = &left_out.cause else {
                continue;
            };
            let (database, text) = (accounts.clone(), account.text().to_owned());
            // A database that hangs is waited for, and holds one thread.
            let answer = spawn_blocking(move || database(&text)).await;
            match answer {
                Ok(Ok(Some(found))) => {
                    tracing::info!(
                        uid = found.uid,
                        "{} is served: its account is known by now",
                        left_out.part
                    );
                    account.appeared(found);
                }
                Ok(Ok(None)) => tracing::debug!("{}: no such account yet", left_out.part),
                Ok(Err(error)) => {
                    tracing::debug!(
                        "{}: the account database can't be asked: {error}",
                        left_out.part
                    );
                }
                Err(panicked) => tracing::error!("{}: {panicked}", left_out.part),
            }
        }
    }
}
