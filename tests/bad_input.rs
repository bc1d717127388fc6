//! What no q client sends gets a clear end at once, and a line that says what it was.

use hopend::config::ListenAddress;
use q_ipc::frame::{Header, MessageType};
use q_ipc::message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::configuration::EndpointTable;
use crate::support::{Log, QClient, Stage};

/// What a client reads until the end after it has sent `bytes`.
async fn answer_to(stage: &Stage, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(stage.address("hdb")).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    answer
}

async fn strict() -> Stage {
    Stage::builder()
        .endpoint("hdb", |hdb| {
            hdb.max_handshake(1024)
                .handshake_timeout("300ms")
                .max_message("1MiB")
        })
        .start()
        .await
}

#[tokio::test]
async fn a_tls_client_on_a_plain_port_gets_an_alert() {
    let (log, _guard) = Log::capture();
    let stage = strict().await;
    let client_hello = [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc];
    let answer = answer_to(&stage, &client_hello).await;
    assert_eq!(answer, [0x15, 3, 1, 0, 2, 2, 70]);
    let line = log
        .line_with(&["WARN", "speaks TLS to a plain port", "kind=\"client\""])
        .await;
    // What failed, then the fix, each once.
    let told = "session refused: the client speaks TLS to a plain port. Fix: dial it without TLS";
    assert!(line.contains(told), "{line}");
    assert_eq!(line.matches("plain port").count(), 1, "{line}");
}

#[tokio::test]
async fn an_http_client_gets_an_answer_that_it_can_show() {
    let (log, _guard) = Log::capture();
    let stage = strict().await;
    let request = b"GET /.h HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let answer = String::from_utf8(answer_to(&stage, request).await).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
    assert!(
        head.contains(&format!("Content-Length: {}", body.len())),
        "{head}"
    );
    assert!(body.contains("q IPC"), "{body}");
    log.line_with(&["speaks HTTP to a q port"]).await;
}

#[tokio::test]
async fn a_handshake_too_long_too_slow_or_cut_short() {
    let (log, _guard) = Log::capture();
    let stage = strict().await;
    assert_eq!(answer_to(&stage, &[b'x'; 1024]).await, b"");
    log.line_with(&["no NUL within 1024 bytes"]).await;
    // Nothing more comes, and the client does not go.
    assert_eq!(answer_to(&stage, b"alice:never the end").await, b"");
    let slow = log.line_with(&["no complete handshake within 0.3 s"]).await;
    assert!(!slow.contains("never the end"));
    let mut gone = TcpStream::connect(stage.address("hdb")).await.unwrap();
    gone.write_all(b"alice:").await.unwrap();
    gone.shutdown().await.unwrap();
    assert_eq!(gone.read_to_end(&mut Vec::new()).await.unwrap(), 0);
    log.line_with(&["went away before its handshake was complete"])
        .await;
    assert_eq!(answer_to(&stage, b"\xff:\x03\0").await, b"");
    log.line_with(&["not UTF-8"]).await;
}

#[tokio::test]
async fn headers_that_no_q_process_sends() {
    let (log, _guard) = Log::capture();
    let stage = strict().await;
    for (head, reason) in [
        ([1, 0, 0, 0, 8, 0, 0, 0], "a message length of 8 bytes"),
        ([1, 3, 0, 0, 9, 0, 0, 0], "message type 3"),
        ([7, 1, 0, 0, 9, 0, 0, 0], "byte order 7"),
    ] {
        let mut handle = stage.open("hdb").await;
        handle.stream.write_all(&head).await.unwrap();
        let mut rest = Vec::new();
        handle.stream.read_to_end(&mut rest).await.unwrap();
        log.line_with(&["session ended", "no q message", reason, "kind=\"client\""])
            .await;
    }
}

#[tokio::test]
async fn a_message_over_the_endpoints_limit_is_answered_with_the_limit() {
    let stage = strict().await;
    let mut handle = stage.open("hdb").await;
    let header = Header {
        little_endian: true,
        message_type: MessageType::Sync,
        compression: 0,
        length: (1 << 20) + 1,
    };
    handle.stream.write_all(&header.encode()).await.unwrap();
    let reason = handle.answer().await.unwrap_err();
    assert!(
        reason.contains("1048577 bytes (max_message of the endpoint is 1048576)"),
        "{reason}"
    );
    assert!(handle.sees_end().await);
}

#[tokio::test]
async fn the_forms_of_handshake_that_clients_have() {
    let stage = strict().await;
    for (hello, capability) in [
        (&b"\x03\0"[..], 3),
        (b":\x06\0", 6),
        (b":\x01\0", 1),
        (b":\0", 0),
    ] {
        let mut stream = TcpStream::connect(stage.address("hdb")).await.unwrap();
        // With the first request behind it, as a pipelining client has.
        let request = message::text(MessageType::Sync, "1+1");
        stream.write_all(&[hello, &request].concat()).await.unwrap();
        let mut answer = [0; 18];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer[0], capability, "{hello:?}");
        assert_eq!(answer[9..], [0xf9, 2, 0, 0, 0, 0, 0, 0, 0]);
    }
}

/// An endpoint of two addresses and one place: whichever is dialled has it.
#[tokio::test]
async fn the_last_place_of_an_endpoint_is_free_at_each_of_its_addresses() {
    let stage = Stage::builder()
        .endpoint("hdb", |hdb| {
            hdb.listen(["127.0.0.1:0", "[::1]:0"]).max_sessions(1)
        })
        .start()
        .await;
    let addresses: Vec<_> = stage
        .app
        .addresses()
        .into_iter()
        .filter_map(|(name, address)| match address {
            ListenAddress::Tcp(address) if name == "hdb" => Some(address),
            _ => None,
        })
        .collect();
    assert_eq!(addresses.len(), 2);
    for &address in addresses.iter().cycle().take(6) {
        let mut handle = QClient::open(address, "", "").await.unwrap();
        handle.ask("1+1").await.unwrap();
    }
}

/// The file does not show the loop, for the system chooses the ports. One hopen makes two sessions, where
/// it made as many as there may be.
#[tokio::test]
async fn an_endpoint_that_leads_back_to_itself_refuses_the_second_turn() {
    let (log, _guard) = Log::capture();
    let to = |connect: &str| {
        let connect = format!(":{connect}");
        |endpoint: EndpointTable| endpoint.connect(connect).login("client").errors("explain")
    };
    let mut stage = Stage::builder()
        .configure(|config| {
            config
                .add_endpoint("first", to("192.0.2.1:1"))
                .add_endpoint("second", to("192.0.2.1:2"))
        })
        .start()
        .await;
    let [first, second] = ["first", "second"].map(|name| stage.address(name).to_string());
    stage.reload(|config| {
        config
            .endpoint("first", to(&second))
            .endpoint("second", to(&first))
    });
    let mut handle = stage.open("first").await;
    let said = handle.ask("1+1").await.unwrap_err();
    assert!(said.contains("leads back to itself"), "{said}");
    let line = log
        .line_with(&[
            "session refused",
            "first -> second -> first",
            "kind=\"configuration\"",
        ])
        .await;
    assert!(line.contains("Fix: "), "{line}");
    let sessions = &stage.app.services().sessions;
    let sessions = sessions.count();
    assert_eq!(sessions, 3, "first, second, and the one that was refused");
}
