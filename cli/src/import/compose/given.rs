//! What the command line says about a Compose file.

/// What the command line says.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Given<'a> {
    /// Convert only this service.
    pub(in super::super) app: Option<&'a str>,
    /// The app's name, in place of the service's.
    pub(in super::super) name: Option<&'a str>,
    /// What one worker runs, if the file names no command.
    pub(in super::super) command: Option<&'a str>,
    /// The variables of `--env-file`.
    pub(in super::super) variables: &'a [(String, String)],
    /// Whether each pod has one worker.
    pub(in super::super) keeps_processes: bool,
    /// Fields of the service in which a variable is not set, with its name.
    pub(in super::super) unset: Vec<(String, String)>,
}
