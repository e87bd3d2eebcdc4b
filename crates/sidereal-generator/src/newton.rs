//! A step of Newton's method.

/// The solution of `hessian x step = gradient`, by Cholesky's decomposition; a Hessian that is not positive is taken as
/// barely so.
///
/// # Shapes
/// `hessian`: `[P, P]`; `gradient` and result: `[P]`
pub(crate) fn step(hessian: &[f64], gradient: &[f64]) -> Vec<f64> {
    let count = gradient.len();
    assert_eq!(hessian.len(), count * count, "the Hessian must be [P, P]");
    let mut lower = hessian.to_vec();
    for i in 0..count {
        for j in 0..=i {
            let known: f64 = (0..j).map(|k| lower[i * count + k] * lower[j * count + k]).sum();
            let rest = lower[i * count + j] - known;
            lower[i * count + j] = if i == j { rest.max(1e-12).sqrt() } else { rest / lower[j * count + j] };
        }
    }
    let mut step = gradient.to_vec();
    for i in 0..count {
        let known: f64 = (0..i).map(|k| lower[i * count + k] * step[k]).sum();
        step[i] = (step[i] - known) / lower[i * count + i];
    }
    for i in (0..count).rev() {
        let known: f64 = (i + 1..count).map(|k| lower[k * count + i] * step[k]).sum();
        step[i] = (step[i] - known) / lower[i * count + i];
    }
    step
}
