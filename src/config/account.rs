//! Local accounts, by name or number.

use std::io;

use nix::unistd::{Uid, User};

use super::OsUser;

/// How a local account is looked up by what the file says: its name or its number. None if there is
/// no such account, an error if the account database can't be asked.
pub type Accounts<'a> = dyn Fn(&str) -> io::Result<Option<OsUser>> + 'a;

/// Asks the system's account database. A number needs no entry there: containers often run as one
/// that has none.
///
/// # Errors
/// When the account database can't be asked.
pub fn system_account(text: &str) -> io::Result<Option<OsUser>> {
    if let Some(user) = User::from_name(text)? {
        return Ok(Some(known(user)));
    }
    // The largest number is what the kernel calls "no user".
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = text.parse::<u32>().ok().filter(|uid| *uid != u32::MAX);
    match number {
        Some(uid) if digits => {
            let user = User::from_uid(Uid::from_raw(uid))?;
            Ok(Some(user.map_or_else(
                || OsUser {
                    name: text.to_owned(),
                    uid,
                },
                known,
            )))
        }
        _ => Ok(None),
    }
}

fn known(user: User) -> OsUser {
    OsUser {
        uid: user.uid.as_raw(),
        name: user.name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found_by_name_and_number() {
        let root = OsUser {
            name: "root".into(),
            uid: 0,
        };
        assert_eq!(system_account("root").unwrap(), Some(root.clone()));
        assert_eq!(system_account("0").unwrap(), Some(root));
        let unnamed = system_account("4000000001").unwrap().unwrap();
        assert_eq!(
            (unnamed.name.as_str(), unnamed.uid),
            ("4000000001", 4_000_000_001)
        );
        for none in ["", "no-such-account", "-1", "+5", "4294967295", "a\0b"] {
            assert_eq!(system_account(none).ok().flatten(), None, "{none:?}");
        }
    }
}
