"""What keeps a quantised model from being accurate or fast, and what of it can be changed."""

from fxquant.diagnosis.answers import Diagnosis
from fxquant.diagnosis.doctor import doctor
from fxquant.diagnosis.section import DoctorSection

__all__ = ["Diagnosis", "DoctorSection", "doctor"]
