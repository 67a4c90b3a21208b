-- A look that brought nothing for a day is forgotten; what was found stays.
grant delete on late_looks to freezeframe_app;
delete from late_looks where next_look_at is null and finding is null;
