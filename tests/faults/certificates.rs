//! kdb+ shows a certificate that is not to be believed.

use simulator::{CertificateFlaw, ClusterFault};

use super::{Case, Row, Sees};

const AT_ONCE: &str = "the next hopen, as soon as the certificate is right";

async fn shown(row: &Row, flaw: CertificateFlaw) {
    let case = Case::start().await;
    // A session that is live stays: it was made with the right one.
    let mut live = case.stage.open("hdb").await;
    case.set(ClusterFault::Certificate(flaw));
    row.saw(case.hopen().await);
    row.logged(&case.log).await;
    live.ask("1+1").await.unwrap();
    case.stage.sim.faults().clear();
    assert_eq!(case.hopen().await, Sees::Nothing);
    case.end();
}

faults! {
    #[tokio::test]
    of_an_unknown_authority {
        fault: "signed by an authority that is not in `ca_file`",
        sees: Sees::Reset,
        log: &["session refused", "set ca_file to the authority that signed", "kind=\"upstream\""],
        recovers: AT_ONCE,
        test(row): shown(row, CertificateFlaw::OtherAuthority),
    }
    of_another_host {
        fault: "for another host",
        sees: Sees::Reset,
        log: &["session refused", "Fix: dial a name that the certificate carries", "kind=\"upstream\""],
        recovers: AT_ONCE,
        test(row): shown(row, CertificateFlaw::OtherHost),
    }
    expired {
        fault: "expired",
        sees: Sees::Reset,
        log: &["session refused", "Fix: renew the certificate there, or correct this host's clock", "kind=\"upstream\""],
        recovers: AT_ONCE,
        test(row): shown(row, CertificateFlaw::Expired),
    }
    not_yet_valid {
        fault: "not valid yet",
        sees: Sees::Reset,
        log: &["session refused", "Fix: correct this host's clock", "kind=\"upstream\""],
        recovers: AT_ONCE,
        test(row): shown(row, CertificateFlaw::NotYetValid),
    }
    revoked {
        fault: "in a list of revoked certificates that `ca_file` holds",
        sees: Sees::Reset,
        log: &["session refused", "Fix: renew the certificate there", "kind=\"upstream\""],
        recovers: AT_ONCE,
        test(row): shown(row, CertificateFlaw::Revoked),
    }
}
