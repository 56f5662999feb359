//! Archives at an https address, with a certificate that the host believes.

use std::path::{Path, PathBuf};

use crate::host::Host;

const PORT: u16 = 8443;

/// Offers an archive and what lies beside it, on the host itself; the archive's address.
pub(crate) fn serve(host: &Host<'_>, archive: &Path) -> String {
    let (at, name) = (&host.address, archive.file_name().unwrap().to_str().unwrap());
    host.ssh("mkdir -p /srv/downloads").ok();
    for ending in ["", ".sha256", ".minisig"] {
        let from = PathBuf::from(format!("{}{ending}", archive.display()));
        host.put(&from, &format!("/srv/downloads/{name}{ending}"));
    }
    if host.ssh("systemctl is-active --quiet downloads").code != 0 {
        host.ssh(&format!(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
             -subj /CN=downloads -addext subjectAltName=IP:{at} -keyout /srv/key.pem \
             -out /usr/local/share/ca-certificates/downloads.crt && update-ca-certificates && \
             systemd-run --unit downloads --working-directory /srv/downloads openssl s_server -WWW \
             -accept {PORT} -key /srv/key.pem -cert /usr/local/share/ca-certificates/downloads.crt"
        ))
        .ok();
    }
    format!("https://{at}:{PORT}/{name}")
}
