//! A handshake is read the same however it is cut into pieces, and what it says is said again by
//! [`Hello::encode`].

use q_ipc::handshake::Hello;

/// Bytes of the longest handshake.
const LIMIT: usize = 64;

/// `bytes` come from a client, one after the other or all at once.
pub fn holds(bytes: &[u8]) {
    let at_once = Hello::parse(bytes, LIMIT);
    let pieces = (0..=bytes.len()).map(|cut| Hello::parse(&bytes[..cut], LIMIT));
    let first = pieces.into_iter().find(|read| !matches!(read, Ok(None)));
    assert_eq!(
        first.unwrap_or(Ok(None)),
        at_once,
        "it depends on the pieces"
    );

    let Ok(Some((hello, used))) = at_once else {
        return;
    };
    assert!(used <= LIMIT && bytes[used - 1] == 0);
    assert!(!bytes[..used - 1].contains(&0), "a NUL is passed over");
    let said = hello.encode();
    // A colon may have come in between user and password.
    let again = Hello::parse(said.expose(), LIMIT + 1);
    assert_eq!(again, Ok(Some((hello, said.expose().len()))));
}
