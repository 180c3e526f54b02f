//! The Vulkan driver that draws without a graphics card: Mesa's, by the file that the runner takes, with its version.
//!
//! Where it is looked for and how its version is read is `helix_mesa`, for the runner and for this.

use std::path::PathBuf;

use helix_mesa::{Driver, FIX, OLDEST, Places};

use super::for_zed;
use crate::checks::{Check, Report};

const NAME: &str = "vulkan";

/// Looks at the driver that was named, else for one.
pub fn check(named: Option<PathBuf>, places: &Places, zed: bool, report: &mut Report) -> Option<Driver> {
    let Some(icd) = named.or_else(|| places.find()) else {
        let found = format!("no Vulkan driver: there is no lvp_icd*.json in {places}");
        report.add(for_zed(zed, NAME, found).next(FIX));
        return None;
    };
    let driver = match Driver::read(&icd) {
        Ok(driver) => driver,
        Err(why) => {
            report.add(for_zed(zed, NAME, format!("{} {why}", icd.display())).next(FIX));
            return None;
        }
    };
    let found = format!("{} ({})", driver.words(), driver.icd.display());
    report.add(if !helix_mesa::has_loader() {
        for_zed(zed, NAME, format!("{found}, but no libvulkan.so.1 to find it with")).next(FIX)
    } else if driver.is_new() == Some(true) {
        Check::ok(NAME, found)
    } else {
        // The look at the window decides.
        Check::warn(NAME, format!("{found}: Zed needs Mesa {OLDEST} or newer")).next(FIX)
    });
    Some(driver)
}
