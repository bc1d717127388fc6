//! A cluster may call its client.

use q_ipc::frame::MessageType;
use q_ipc::value::Value;

use crate::support::Stage;

#[tokio::test]
async fn calls_of_the_cluster_to_its_client_pass_both_ways() {
    let stage = Stage::start().await;
    let mut handle = stage.open("hdb").await;
    handle.send(MessageType::Sync, "ask[\"2+2\"]").await;
    let (asked, _) = handle.message().await.unwrap();
    assert_eq!(asked.message_type, MessageType::Sync);
    let reply = q_ipc::message::message(MessageType::Response, &Value::Long(4).encode());
    tokio::io::AsyncWriteExt::write_all(&mut handle.stream, &reply)
        .await
        .unwrap();
    assert_eq!(handle.answer().await, Ok(Value::Long(4)));
}
