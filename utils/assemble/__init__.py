"""What joins the rooms: the methods on a batch; as a run, or from Python."""

from utils.assemble.edit_plan import plan_edit
from utils.assemble.editor import Editor
from utils.assemble.translate_plan import plan_translation
from utils.assemble.translator import Translator

__all__ = ["Editor", "Translator", "plan_edit", "plan_translation"]
