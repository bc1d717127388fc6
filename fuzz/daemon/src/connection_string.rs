//! A connection string put together again from its parts is the same one, and an error says nothing
//! of what it was made of.

use finspace::connection_string::ConnectionString;

pub fn holds(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let string = match ConnectionString::parse(text) {
        Ok(string) => string,
        Err(error) => {
            let told = error.to_string();
            let longer = ConnectionString::parse(&format!("{text} "));
            assert_eq!(longer.map_err(|error| error.to_string()), Err(told));
            return;
        }
    };
    let password = std::str::from_utf8(string.password.expose()).expect("a part of the text");
    let (address, user) = (&string.address, &string.user);
    assert!(!user.contains(':') && address.port > 0 && !address.host.is_empty());
    let scheme = if address.tls { ":tcps://" } else { ":" };
    let again = format!(
        "{scheme}{}:{}:{user}:{password}",
        address.host, address.port
    );
    assert_eq!(ConnectionString::parse(&again), Ok(string.clone()));
    assert!(again.len() <= text.trim().len(), "nothing is added");

    // When it ends is told by two fields together, and only by them.
    let fields = ["X-Amz-Date", "X-Amz-Expires"];
    let named = |name: &&str| {
        form_urlencoded::parse(string.password.expose()).any(|(field, _)| field == **name)
    };
    if string.expires().is_some() {
        assert!(fields.iter().all(named));
    }
    let shown = format!("{string:?}");
    assert!(password.is_empty() || shown.contains("Secret(…)"));
}
