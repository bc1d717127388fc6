//! The cryptography provider of every TLS connection that carries q.
//!
//! aws-lc provides everything, apart from AES-GCM on processors that have vector AES with AVX2 but not
//! with AVX-512 (AMD since Zen 3, Intel's client processors). On these aws-lc falls back to AES-NI, and
//! ring encrypts in about half the time: a record of 16 KiB with AES-256 takes 3.5 µs instead of 6.7 µs
//! on such an EPYC.

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs, ring};
use rustls::{CipherSuite, SupportedCipherSuite};

/// The provider for building a TLS configuration. All calls return the same one.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let cipher_suites = in_order(if ring_is_faster() {
            ring::ALL_CIPHER_SUITES
        } else {
            aws_lc_rs::ALL_CIPHER_SUITES
        });
        Arc::new(CryptoProvider {
            cipher_suites,
            ..aws_lc_rs::default_provider()
        })
    });
    Arc::clone(&PROVIDER)
}

/// Draws a first random number, for which aws-lc gathers entropy for 50 ms. Without this call the first
/// connection would wait that long.
pub fn warm_up() {
    let mut number = [0; 8];
    // A failure shows again where a random number is needed, and is reported there.
    let _ = provider().secure_random.fill(&mut number);
}

/// The cipher suites in order of preference.
///
/// AES-128 comes before AES-256, which needs 40 % more rounds, and SHA-384, for which few processors
/// have instructions. `ChaCha20` comes first on processors without AES instructions. It also comes first
/// in TLS 1.2: rustls ends an AES-GCM connection there after 2^24 records, because TLS 1.2 has no key
/// update. A feed of 1,000 messages a second would break after five hours.
fn in_order(suites: &[SupportedCipherSuite]) -> Vec<SupportedCipherSuite> {
    let mut suites = suites.to_vec();
    let has_aes = has_aes();
    suites.sort_by_key(|suite| {
        let tls12 = suite.tls13().is_none();
        let rank = match suite.suite() {
            CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => 0,
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 if !has_aes => 0,
            CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => 1,
            CipherSuite::TLS13_AES_256_GCM_SHA384
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => 2,
            _ => 3,
        };
        (tls12, rank)
    });
    suites
}

#[cfg(target_arch = "x86_64")]
fn has_aes() -> bool {
    is_x86_feature_detected!("aes") && is_x86_feature_detected!("pclmulqdq")
}

#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has_aes() -> bool {
    false
}

#[cfg(target_arch = "x86_64")]
fn ring_is_faster() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("vaes")
        && is_x86_feature_detected!("vpclmulqdq")
        && !is_x86_feature_detected!("avx512f")
}

#[cfg(not(target_arch = "x86_64"))]
fn ring_is_faster() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_of_either_library_is_offered_the_cheapest_first() {
        for all in [ring::ALL_CIPHER_SUITES, aws_lc_rs::ALL_CIPHER_SUITES] {
            let suites: Vec<_> = in_order(all)
                .iter()
                .map(SupportedCipherSuite::suite)
                .collect();
            assert_eq!(suites.len(), all.len());
            let first = if has_aes() {
                CipherSuite::TLS13_AES_128_GCM_SHA256
            } else {
                CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
            };
            assert_eq!(suites[0], first);
            let tls12 = all.iter().filter(|suite| suite.tls13().is_none()).count();
            let first = format!("{:?}", suites[suites.len() - tls12]);
            assert!(first.contains("CHACHA20"), "{first} has a limit of records");
            let is_tls13 = |suite: &CipherSuite| format!("{suite:?}").starts_with("TLS13");
            assert!(
                suites.is_sorted_by_key(|suite| !is_tls13(suite)),
                "{suites:?}"
            );
        }
    }
}
