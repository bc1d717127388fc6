//! Looks up accounts again that the account database did not know at the start or reload. The lookups
//! of an account go on until the database knows it.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::config::{AccountDatabase, ConfigPart, LeftOutCause, LeftOutPart, LocalAccount};
use crate::primitives::backoff::Backoff;

/// The pauses between the attempts of one account.
const LOOKUP_BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
/// The most lookups at the same time. A lookup that hangs holds a thread.
const LOOKUPS: usize = 64;

/// Looks up the accounts of all parts of the configuration that were left out because their account was
/// unknown. Returns once every account is known. The daemon serves a user or viewer as soon as the
/// account is known, without a reload.
pub(crate) async fn resolve(left_out: Vec<LeftOutPart>, accounts: AccountDatabase) {
    let turns = Semaphore::new(LOOKUPS);
    let each = left_out.iter().filter_map(|left_out| {
        let LeftOutCause::AccountUnknown(account) = &left_out.cause else {
            return None;
        };
        let lookup = AccountLookup {
            part: &left_out.part,
            account,
            accounts: &accounts,
            turns: &turns,
        };
        Some(lookup.until_known())
    });
    join_all(each).await;
}

/// Looks one account up until the account database knows it.
struct AccountLookup<'a> {
    part: &'a ConfigPart,
    account: &'a LocalAccount,
    accounts: &'a AccountDatabase,
    turns: &'a Semaphore,
}

impl AccountLookup<'_> {
    async fn until_known(self) {
        let mut backoff = LOOKUP_BACKOFF;
        while self.account.resolved().is_none() {
            sleep(backoff.next_pause()).await;
            let (database, text) = (self.accounts.clone(), self.account.text().to_owned());
            let turn = self.turns.acquire().await;
            // The lookup has its own thread, so that a lookup that hangs delays no other.
            let answer = spawn_blocking(move || database(&text)).await;
            drop(turn);
            let part = self.part;
            match answer {
                Ok(Ok(Some(found))) => {
                    tracing::info!(
                        uid = found.uid,
                        "{part} is served: its account is known by now"
                    );
                    self.account.set_resolved(found);
                }
                Ok(Ok(None)) => tracing::debug!("{part}: no such account yet"),
                Ok(Err(error)) => {
                    tracing::debug!("{part}: the account database can't be asked: {error}");
                }
                Err(panicked) => tracing::error!("{part}: {panicked}"),
            }
        }
    }
}
