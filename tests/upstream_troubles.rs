//! When kdb+ can't be had or goes away, the client sees what q's own documentation leads it to
//! expect, and the log says what to do.

use std::io::ErrorKind;

use hopend::q::frame::MessageType;
use hopend::q::value::Value;
use hopend::sim::{ClusterFault, Cut, Flaw, Options, Times};
use tokio::io::AsyncReadExt;

use crate::support::qclient::Refused;
use crate::support::{Log, QClient, Stage, any_ports};

async fn stage() -> Stage {
    Stage::with(Options::default(), |text| {
        any_ports(text).replacen("cluster = ", "connect_timeout = \"500ms\"\ncluster = ", 1)
    })
    .await
}

#[tokio::test]
async fn wrong_certificates_and_what_to_do_about_each() {
    for (flaw, remedy) in [
        (Flaw::OtherAuthority, "set ca_file"),
        (Flaw::OtherHost, "the certificate is for another host"),
        (Flaw::Expired, "the certificate has expired"),
    ] {
        let (log, _guard) = Log::capture();
        let stage = stage().await;
        let fault = ClusterFault::Certificate(flaw);
        stage
            .sim
            .faults()
            .cluster("hdb-cluster", fault, Times::Always);
        let refused = QClient::open(stage.address("hdb"), "", "").await;
        assert!(matches!(refused, Err(Refused::Broken(_))), "{flaw:?}");
        log.line_with(&["session refused", remedy, "kind=\"upstream\""])
            .await;
    }
}

#[tokio::test]
async fn every_stage_of_a_dial_that_fails_is_named() {
    for (fault, said) in [
        (ClusterFault::ResetAtAccept, "TLS failed"),
        (ClusterFault::CloseAtTls, "TLS failed"),
        (ClusterFault::Plaintext, "TLS failed"),
        (ClusterFault::Stall, "while shaking hands over TLS"),
        (ClusterFault::StallAfterTls, "while logging in"),
        (ClusterFault::StallAfterLogin, "while logging in"),
        (ClusterFault::ResetAfterLogin, "broke during the login"),
    ] {
        let (log, _guard) = Log::capture();
        let stage = stage().await;
        stage
            .sim
            .faults()
            .cluster("hdb-cluster", fault, Times::Always);
        let refused = QClient::open(stage.address("hdb"), "", "").await;
        assert!(matches!(refused, Err(Refused::Broken(_))), "{fault:?}");
        log.line_with(&["session refused", said, "kind=\"upstream\""])
            .await;
        // One cluster in trouble: the next is not.
        stage.open("rdb").await;
    }
}

#[tokio::test]
async fn lost_between_messages_a_waiting_client_gets_an_error_and_an_idle_one_the_end() {
    for how in [Cut::Fin, Cut::Reset] {
        let stage = stage().await;
        let (mut busy, mut idle) = (stage.open("hdb").await, stage.open("hdb").await);
        busy.send(MessageType::Sync, "system\"sleep 30\"").await;
        stage
            .sim
            .wait_until(|sim| sim.connections()[0].syncs == 1)
            .await;
        assert_eq!(stage.sim.cut("hdb-cluster", how), 2);
        let error = busy.answer().await.unwrap_err();
        assert!(
            error.contains("hopend: the cluster closed the connection with a request outstanding"),
            "{how:?}: {error}"
        );
        assert!(busy.sees_end().await, "{how:?}");
        assert!(idle.sees_end().await, "{how:?}");
    }
}

#[tokio::test]
async fn lost_inside_a_message_the_client_sees_a_reset() {
    for how in [Cut::InsideFrame, Cut::InsideFrameReset] {
        let stage = stage().await;
        let mut handle = stage.open("hdb").await;
        handle.send(MessageType::Sync, "system\"sleep 30\"").await;
        stage
            .sim
            .wait_until(|sim| sim.connections()[0].syncs == 1)
            .await;
        stage.sim.cut("hdb-cluster", how);
        let mut rest = Vec::new();
        let error = handle.stream.read_to_end(&mut rest).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{how:?}");
    }
}

#[tokio::test]
async fn calls_of_the_cluster_to_its_client_pass_both_ways() {
    let stage = stage().await;
    let mut handle = stage.open("hdb").await;
    handle.send(MessageType::Sync, "ask[\"2+2\"]").await;
    let (asked, _) = handle.message().await.unwrap();
    assert_eq!(asked.message_type, MessageType::Sync);
    let reply = hopend::q::message::message(MessageType::Response, &Value::Long(4).encode());
    tokio::io::AsyncWriteExt::write_all(&mut handle.stream, &reply)
        .await
        .unwrap();
    assert_eq!(handle.answer().await, Ok(Value::Long(4)));
}
