//! What the command line says about manifests of Kubernetes.

/// What the command line says about manifests.
#[derive(Debug, Default)]
pub(in super::super) struct Given<'a> {
    /// Convert only the workload of this name.
    pub(in super::super) app: Option<&'a str>,
    /// The name of the app, in place of the workload's.
    pub(in super::super) name: Option<&'a str>,
    /// The container that is the app.
    pub(in super::super) container: Option<&'a str>,
    /// What one worker runs, if the manifest names no command.
    pub(in super::super) command: Option<&'a str>,
    /// Whether each pod has one worker, as before.
    pub(in super::super) keeps_processes: bool,
}
