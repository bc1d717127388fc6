//! Runs stages one after another, each under a deadline, and reports their results.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::stage::{StageEvent, StageName, StageOutcome, StageReport, StageSubject};
use crate::credential::FetchError;
use base::error::{ErrorKind, split_fix};
use finspace::{AwsError, MissingPermission};

/// How much longer a stage may run than the calls in it, which have deadlines of their own.
pub(super) const MARGIN: Duration = Duration::from_secs(1);

/// Runs stages and reports each start and end.
pub(super) struct StageRunner<'a> {
    /// The longest time that one stage may take.
    pub(super) limit: Duration,
    /// The subject of the stages that follow.
    pub(super) subject: StageSubject,
    report: &'a mut (dyn FnMut(StageEvent<'_>) + Send),
}

/// The result of a stage that did not fail: a value for later stages, and words for the report.
#[derive(Debug)]
pub(super) struct StageFinding<T> {
    value: T,
    outcome: StageOutcome,
    text: String,
    remedy: Option<String>,
}

/// The cause of a stage's failure.
#[derive(Debug)]
pub(super) struct StageFailure {
    /// The party at fault.
    pub(super) kind: ErrorKind,
    pub(super) cause: String,
    pub(super) remedy: Option<String>,
    /// The statement that an IAM policy lacks.
    pub(super) missing: Option<Box<MissingPermission>>,
}

impl<'a> StageRunner<'a> {
    pub(super) fn new(limit: Duration, report: &'a mut (dyn FnMut(StageEvent<'_>) + Send)) -> Self {
        Self {
            limit,
            subject: StageSubject::default(),
            report,
        }
    }

    /// Runs one stage under the usual deadline. Returns its value, or `None` if it failed.
    pub(super) async fn run<T>(
        &mut self,
        name: StageName,
        work: impl Future<Output = Result<StageFinding<T>, StageFailure>>,
    ) -> Option<T> {
        self.run_within(self.limit, name, work).await
    }

    /// Runs a stage that calls AWS. The calls end within the limit and return their cause. The margin is
    /// for the work before the first call, such as reading the system's certificates.
    pub(super) async fn run_aws<T>(
        &mut self,
        name: StageName,
        work: impl Future<Output = Result<StageFinding<T>, StageFailure>>,
    ) -> Option<T> {
        self.run_within(self.limit + MARGIN, name, work).await
    }

    /// Runs one stage under the deadline `limit`. Returns its value, or `None` if it failed.
    pub(super) async fn run_within<T>(
        &mut self,
        limit: Duration,
        name: StageName,
        work: impl Future<Output = Result<StageFinding<T>, StageFailure>>,
    ) -> Option<T> {
        (self.report)(StageEvent::Started(&self.subject, name));
        let started = Instant::now();
        let result = timeout(limit, work).await.unwrap_or_else(|_| {
            Err(StageFailure {
                kind: ErrorKind::Upstream,
                cause: format!("no result within {} s", limit.as_secs_f32()),
                remedy: name.timeout_remedy().map(str::to_owned),
                missing: None,
            })
        });
        let took = started.elapsed();
        let (report, value) = match result {
            Ok(finding) => {
                let report = StageReport {
                    name,
                    outcome: finding.outcome,
                    took,
                    finding: finding.text,
                    remedy: finding.remedy,
                    missing: None,
                };
                (report, Some(finding.value))
            }
            Err(failure) => {
                let report = StageReport {
                    name,
                    outcome: StageOutcome::Failed(failure.kind),
                    took,
                    finding: failure.cause,
                    remedy: failure.remedy,
                    missing: failure.missing,
                };
                (report, None)
            }
        };
        (self.report)(StageEvent::Finished(&self.subject, &report));
        value
    }

    /// Reports a stage as skipped, with the reason.
    pub(super) fn skip(&mut self, name: StageName, reason: impl Into<String>) {
        let report = StageReport {
            name,
            outcome: StageOutcome::Skipped,
            took: Duration::ZERO,
            finding: reason.into(),
            remedy: None,
            missing: None,
        };
        (self.report)(StageEvent::Finished(&self.subject, &report));
    }

    /// Reports stages as skipped because they need the result of `prerequisite`, which is missing.
    pub(super) fn skip_after(&mut self, prerequisite: StageName, names: &[StageName]) {
        for &name in names {
            self.skip(name, format!("waits for {prerequisite}"));
        }
    }
}

impl<T> StageFinding<T> {
    pub(super) fn new(value: T, text: impl Into<String>) -> Self {
        Self {
            value,
            outcome: StageOutcome::Passed,
            text: text.into(),
            remedy: None,
        }
    }

    /// Turns the finding into a warning with this remedy.
    pub(super) fn warn(self, remedy: impl Into<String>) -> Self {
        Self {
            outcome: StageOutcome::Warned,
            remedy: Some(remedy.into()),
            ..self
        }
    }

    /// Shows the stage as skipped, because the check was impossible and serving does not need it.
    pub(super) fn skipped(self) -> Self {
        Self {
            outcome: StageOutcome::Skipped,
            ..self
        }
    }
}

impl StageFailure {
    /// Makes a failure. If `cause` ends with a remedy of its own, `remedy` replaces it; an empty `remedy`
    /// keeps it.
    pub(super) fn new(
        kind: ErrorKind,
        cause: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let (cause, remedy) = (cause.into(), remedy.into());
        let (cause, own_remedy) = split_fix(&cause);
        let remedy = match &*remedy {
            "" => own_remedy.unwrap_or_default().to_owned(),
            _ => remedy,
        };
        Self {
            kind,
            cause: cause.to_owned(),
            remedy: Some(remedy),
            missing: None,
        }
    }
}

impl From<AwsError> for StageFailure {
    fn from(error: AwsError) -> Self {
        let rejected_credentials =
            error.is_credential_fault && error.kind == ErrorKind::ControlPlane;
        Self {
            // AWS does not know these credentials, so they give no rights there.
            kind: if rejected_credentials {
                ErrorKind::Denied
            } else {
                error.kind
            },
            cause: error.message,
            remedy: Some(error.remedy),
            missing: error.missing,
        }
    }
}

impl From<FetchError> for StageFailure {
    fn from(error: FetchError) -> Self {
        Self::new(error.kind, error.message, error.remedy)
    }
}
