//! Messages of any size pass in constant memory.

use q_ipc::frame::{HEADER_LEN, Header, MessageType};
use q_ipc::message;
use q_ipc::value::Value;
use simulator::{Options, Simulator};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Process, QClient, Stage, write_configuration};

/// More than 4 GiB, so that byte 3 of the header is in use.
const FIVE_GB: u64 = 5_000_000_000;

/// What the daemon may have at its peak, in KiB.
const MEMORY_LIMIT: u64 = 64 * 1024;

/// The daemon is a process of its own here, so that its memory is its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_response_of_five_gigabytes_passes_with_little_memory() {
    let sim = Simulator::start(Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = write_configuration(&sim, folder.path(), |config| config);
    let mut daemon = Process::start(&["run", "--config", path.to_str().unwrap()]);
    let line = daemon.line_with("endpoint=\"hdb\" address=127.0.0.1:");
    daemon.line_with("ready");
    let address = line.rsplit("address=").next().unwrap().parse().unwrap();

    let mut handle = QClient::open(address, "", "").await.unwrap();
    handle.send(MessageType::Sync, "5000000000#0x2a").await;
    let mut head = [0; HEADER_LEN];
    handle.stream.read_exact(&mut head).await.unwrap();
    let header = Header::parse(head).unwrap();
    // Type, attributes and an 8-byte count come before the bytes.
    let vector_head = header.length - HEADER_LEN as u64 - FIVE_GB;
    assert!((6..=10).contains(&vector_head), "{header:?}");
    assert_ne!(head[3], 0, "byte 3 is in use: {head:?}");
    let mut left = header.length - HEADER_LEN as u64;
    let mut buffer = vec![0; 1 << 20];
    let mut others = 0u64;
    while left > 0 {
        let count = handle.stream.read(&mut buffer).await.unwrap();
        assert_ne!(count, 0, "{left} bytes short");
        others += buffer[..count].iter().filter(|&&byte| byte != 0x2a).count() as u64;
        left -= count as u64;
    }
    assert!(others <= vector_head, "{others} bytes were altered");
    assert_eq!(handle.ask("1+1").await, Ok(Value::Long(2)));

    let peak = daemon.peak_memory();
    println!("peak memory of the daemon: {peak} KiB");
    assert!(peak < MEMORY_LIMIT, "{peak} KiB");
}

/// A vector whose bytes are all different from their neighbours', there and back.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_megabytes_there_and_back_are_the_same() {
    const COUNT: usize = 100_000_000;
    let stage = Stage::start().await;
    let mut handle = stage.open("hdb").await;
    let bytes: Vec<u8> = (0..COUNT)
        .map(|i| (i.wrapping_mul(31) >> 3).to_le_bytes()[0])
        .collect();
    let call = Value::List(vec![
        Value::Chars("{x}".into()),
        Value::Bytes(bytes.clone()),
    ]);
    let message = message::message(MessageType::Sync, &call.encode());
    handle.stream.write_all(&message).await.unwrap();
    assert!(handle.answer().await == Ok(Value::Bytes(bytes)), "altered");
}
